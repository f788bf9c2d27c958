"""Prefixes on disk: found, read, kept under a budget, named, listed, removed. Files only; who is kept is decided above.

Readers take no lock. A file appears under its name by one rename, complete, and each name says what it is; there is no
index to be damaged. A process killed anywhere leaves what was there before, or the new file, and at most a temporary
that is swept later. Two processes share one folder: what changes names is done under a lock.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgelora.core.errors import NotFound, StorageError
from edgelora.core.files import check_name, locked, sweep
from edgelora.core.kv import Key, SavedKv
from edgelora.store.prefixes.file_format import seal, unseal
from edgelora.store.prefixes.index import Index
from edgelora.store.prefixes.layout import PrefixFile, PrefixLayout, StoredPrefix
from edgelora.store.prefixes.origin import Origin, reaches
from edgelora_models.storage import discard, make_folder, move, size_text, storing, sync_file, temp_path, write_atomic

_log = logging.getLogger(__name__)

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another process that makes room."""


@dataclass(frozen=True, slots=True)
class FoundPrefix:
    """A stored prefix of a prompt, to be read."""

    stored: StoredPrefix
    origin: Origin
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored prefix and what it was computed by."""

    held: PrefixFile
    origin: Origin


class PrefixStore:
    """The prefix store below one folder, which is made on the first write. Thread-safe and process-safe."""

    def __init__(self, root: Path, *, budget_bytes: int, clock: Callable[[], float] = time.time) -> None:
        """`budget_bytes`: of all files, named ones included. 0: nothing is kept and nothing found."""
        self.layout = PrefixLayout(root)
        self.budget_bytes = budget_bytes
        self._index = Index(self.layout)
        self._clock = clock

    def find(self, origin: Callable[[int], Origin], key: Key, tokens: tuple[int, ...]) -> FoundPrefix | None:
        """Return the longest stored prefix of `tokens`. `origin` gives the origin of a prefix by its length. Never
        raises.

        Costs one look at a folder's time and a hash over the tokens, whatever the number of files.
        """
        if not self.budget_bytes:
            return None
        for low, high in reaches(key, len(tokens)):
            source = origin(high)
            try:
                stored = self._index.find(source.group, tokens, low=low, high=high)
            except OSError as error:
                _log.warning("prefixes cannot be listed: %s", error)
                return None
            if stored is not None:
                return FoundPrefix(stored, source, tokens[: stored.length])
        return None

    def read(self, found: FoundPrefix) -> SavedKv:
        """Return the KV of a prefix that was found. Raises StorageError where it is gone, or damaged: then it is
        removed."""
        path = found.stored.path
        try:
            saved = unseal(path, found.origin, found.tokens)
        except StorageError as error:
            if error.code == "prefix_damaged":
                _log.warning("%s It is removed.", error.what)
                discard(path)
            self._index.forget(found.stored.group)
            raise
        self._touch(path)
        return saved

    def keep(self, origin: Origin, tokens: tuple[int, ...], saved: SavedKv, *, name: str | None = None) -> StoredPrefix:
        """Write a prefix; the automatic ones that were used least recently make room for it.

        With a name it stays until it is removed, or replaced by another of that name. The same prefix again, without a
        name, is only noted as used. Raises UsageError for a name that can be none, StorageError, and
        StorageError(code prefix_budget) where it does not fit beside the named ones.
        """
        if name is not None:
            check_name(name, kind="prefix")
        stored = self.layout.file(origin.group, tokens, name)
        head, payload = seal(origin, tokens, saved)
        sweep(make_folder(self.layout.tmp))
        temp = temp_path(self.layout.tmp)
        try:
            with storing(temp):
                with temp.open("xb") as file:
                    file.write(head)
                    file.write(payload)
                    file.flush()
                    sync_file(file.fileno())
                with self._changing():
                    self._publish(temp, stored, origin)
        finally:
            discard(temp)
            self._index.forget(origin.group)
        return stored

    def entries(self) -> list[Entry]:
        """Return all prefixes; named ones by name, then the others, latest used first."""
        with storing(self.layout.root):
            held = list(self.layout.every())
        origins = {group: self._origin(group) for group in {usage.stored.group for usage in held}}
        entries = [Entry(usage, origin) for usage in held if (origin := origins[usage.stored.group]) is not None]
        return sorted(entries, key=lambda entry: (entry.held.stored.name or "~", -entry.held.used))

    def remove(self, name: str) -> None:
        """Raises NotFound with near names."""
        with self._changing(), storing(self.layout.root):
            every = list(self.layout.every())
            names = {usage.stored.name for usage in every if usage.stored.name is not None}
            if name not in names:
                raise NotFound("prefix", name, names, "`edgelora prefix ls` shows what is kept.")
            self._delete([usage.stored for usage in every if usage.stored.name == name])

    def remove_automatic(self) -> int:
        """Remove all prefixes without a name and return their number."""
        with self._changing(), storing(self.layout.root):
            gone = [usage.stored for usage in self.layout.every() if usage.stored.name is None]
            self._delete(gone)
        return len(gone)

    def drop(self, *, versions: Collection[str] = (), bases: Collection[str] = ()) -> int:
        """Remove what one of these adapter versions or bases (digests) computed, named or not. Returns how many."""
        if not self.layout.groups.is_dir():
            return 0
        with self._changing(), storing(self.layout.root):
            gone = []
            for group in self.layout.every_group():
                origin = self._origin(group)
                if origin is not None and (
                    origin.base in bases or any(adapter.version in versions for adapter in origin.adapters)
                ):
                    gone += self.layout.in_group(group)
            self._delete(gone)
        return len(gone)

    def _publish(self, temp: Path, new: StoredPrefix, origin: Origin) -> None:
        every, path, name = list(self.layout.every()), new.path, new.name
        alike = [usage.stored for usage in every if usage.stored.content == new.content]
        if name is None and alike:
            self._touch(alike[0].path)
            return
        replaced = [usage.stored for usage in every if name is not None and usage.stored.name == name]
        replaced += [stored for stored in alike if stored.name is None]
        self._make_room(temp.stat().st_size, [usage for usage in every if usage.stored not in replaced], name)
        if not self.layout.origin(origin.group).exists():
            write_atomic(self.layout.origin(origin.group), msgspec.json.encode(origin))
        move(temp, path)
        self._touch(path)
        self._delete([stored for stored in replaced if stored.path != path])

    def _make_room(self, needed: int, held: list[PrefixFile], name: str | None) -> None:
        named = sum(usage.nbytes for usage in held if usage.stored.name is not None)
        if named + needed > self.budget_bytes:
            message = f"A prefix of {size_text(needed)} does not fit: named ones take {size_text(named)}"
            raise StorageError(
                "prefix_budget",
                f"{message} of {size_text(self.budget_bytes)}.",
                "Remove some (edgelora prefix rm NAME), or allow more (EDGELORA_PREFIX_DISK).",
            )
        total = sum(usage.nbytes for usage in held)
        for usage in sorted((usage for usage in held if usage.stored.name is None), key=lambda usage: usage.used):
            if total + needed <= self.budget_bytes:
                return
            self._delete([usage.stored])
            total -= usage.nbytes

    def _delete(self, gone: Collection[StoredPrefix]) -> None:
        for stored in gone:
            stored.path.unlink(missing_ok=True)
        for group in {stored.group for stored in gone}:
            self._index.forget(group)
            if not self.layout.in_group(group):
                # The origin first: a folder without one is made anew by the next writer.
                discard(self.layout.origin(group))
                discard(self.layout.group(group))

    def _origin(self, group: str) -> Origin | None:
        path = self.layout.origin(group)
        try:
            origin = msgspec.json.decode(path.read_bytes(), type=Origin)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("%s cannot be read, so its prefixes are not listed: %s", path, error)
            return None
        return origin if origin.group == group else None

    def _touch(self, path: Path) -> None:
        try:
            now = self._clock()
            os.utime(path, (now, now))
        except OSError:
            return  # it only looks less used than it is

    def _changing(self) -> AbstractContextManager[None]:
        busy = f"Another process is changing the prefixes in {self.layout.root}."
        return locked(self.layout.lock, timeout=LOCK_TIMEOUT, busy=busy)
