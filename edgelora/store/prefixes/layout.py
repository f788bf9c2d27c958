"""The paths of stored prefixes, whose file names carry all that a lookup needs. Lists the disk and never changes it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgelora.core.files import inside, valid_digest, valid_name
from edgelora.store.prefixes.origin import token_bytes

_FILE = re.compile(r"([1-9][0-9]{0,8})-([0-9a-f]{32})(?:~([^~]+))?\.kv")


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """A stored prefix, as its file name and folder describe it."""

    path: Path
    length: int
    """Tokens."""
    digest: str
    """Digest of the tokens."""
    name: str | None
    """Name given by the user; None for a prefix that was kept automatically."""

    @property
    def group(self) -> str:
        return self.path.parent.name

    @property
    def content(self) -> tuple[str, int, str]:
        return (self.group, self.length, self.digest)


@dataclass(frozen=True, slots=True)
class PrefixFile:
    """A stored prefix with its size and times on disk."""

    stored: StoredPrefix
    nbytes: int
    used: float
    """Time of the last write or read, Unix seconds."""


@dataclass(frozen=True, slots=True)
class PrefixLayout:
    """
    groups/<origin digest>/origin.json                         what all files beside it were computed by
    groups/<origin digest>/<length>-<tokens digest>.kv         kept automatically
    groups/<origin digest>/<length>-<tokens digest>~<name>.kv  named
    bases/                                                     digests of the bases' files
    tmp/  lock                                                 writers only
    """

    root: Path

    @property
    def groups(self) -> Path:
        return self.root / "groups"

    @property
    def bases(self) -> Path:
        return self.root / "bases"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def lock(self) -> Path:
        """Held for the moments in which files appear under their names or go."""
        return self.root / "lock"

    def group(self, group: str) -> Path:
        return inside(self.groups, group)

    def origin(self, group: str) -> Path:
        return self.group(group) / "origin.json"

    def file(self, group: str, tokens: tuple[int, ...], name: str | None) -> StoredPrefix:
        """Return the path of a prefix, whether or not it exists."""
        digest = hashlib.sha256(token_bytes(tokens)).hexdigest()[:32]
        suffix = "" if name is None else f"~{name}"
        path = inside(self.groups, group, f"{len(tokens)}-{digest}{suffix}.kv")
        return StoredPrefix(path, len(tokens), digest, name)

    def in_group(self, group: str) -> list[StoredPrefix]:
        """Return the files of one origin; none where there is no such folder. Raises OSError."""
        folder = self.group(group)
        try:
            with os.scandir(folder) as entries:
                parsed = [parse(folder, entry.name) for entry in entries]
        except FileNotFoundError:
            return []
        return [stored for stored in parsed if stored is not None]

    def every_group(self) -> list[str]:
        try:
            with os.scandir(self.groups) as entries:
                return sorted(entry.name for entry in entries if valid_digest(entry.name))
        except FileNotFoundError:
            return []

    def every(self) -> Iterator[PrefixFile]:
        """Yield all files of all groups. One that goes meanwhile is left out. Raises OSError."""
        for group in self.every_group():
            for stored in self.in_group(group):
                try:
                    stat = stored.path.stat()
                except FileNotFoundError:
                    continue
                yield PrefixFile(stored, stat.st_size, stat.st_mtime)


def parse(folder: Path, name: str) -> StoredPrefix | None:
    """Parse a file name; None for a name that is none of ours."""
    match = _FILE.fullmatch(name)
    if match is None or (match[3] is not None and not valid_name(match[3])):
        return None
    return StoredPrefix(folder / name, int(match[1]), match[2], match[3])
