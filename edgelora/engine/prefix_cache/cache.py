"""The prefixes of one resident base: what of a prompt is on disk, what of it should be, and the thread that writes.

The engine asks from the requests' threads, reads on its loader thread, and hands over bytes between two steps; no
disk is waited for anywhere else. In memory there is at most one prefix on its way in, and on its way out WAITING_BYTES
and one prefix more, each no larger than the KV of one sequence. Whatever else is warm lies in the KV's own cells, and
what is read often in the system's page cache: a second cache of bytes would hold the same ones once more.
"""

from __future__ import annotations

import logging
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from edgelora.core.errors import BackendError, EdgeloraError, StorageError
from edgelora.core.kv import Key, SavedKv
from edgelora.core.request import Request
from edgelora.engine.prefix_cache.seen import SeenPrefixes
from edgelora.store.bases.record import BaseRecord
from edgelora.store.prefixes.base_digest import BaseDigests, Report
from edgelora.store.prefixes.layout import StoredPrefix
from edgelora.store.prefixes.origin import Computer
from edgelora.store.prefixes.store import FoundPrefix, PrefixStore

_log = logging.getLogger(__name__)

MIN_TOKENS = 64
"""A shorter system prompt is not kept by itself. Llama 3's template alone makes some 30 tokens of an empty one. To
compute 64 takes an 8B three seconds on two cores; a file takes a read, a digest and a turn of the engine, and 8 MB."""


WAITING_BYTES = 64 << 20
"""While more than this waits to be written, nothing is kept by itself: it will be seen again."""


@dataclass(frozen=True, slots=True)
class PrefixWrite:
    """A prefix to be written once its KV is computed."""

    key: Key
    tokens: tuple[int, ...]
    name: str | None = None
    done: Future[StoredPrefix] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class PrefixLookup:
    """The result of looking a request's prompt up before it reaches the engine."""

    found: FoundPrefix | None = None
    """Its longest prefix on disk."""
    keep: PrefixWrite | None = None
    """The prefix that should be written to disk."""


def open_cache(store: PrefixStore, base: BaseRecord, *, kv: str) -> PrefixCache | None:
    """For a resident base, `kv` its `Backend.kv_identity`; None where prefixes are switched off."""
    if not store.budget_bytes:
        return None
    return PrefixCache(store, base.path, kv=kv, template=base.identity.fingerprint.template)


class PrefixCache:
    """Owns the writer thread, which starts with the first write. Thread-safe."""

    def __init__(self, store: PrefixStore, base: Path, *, kv: str, template: str) -> None:
        """`base`: the resident base's file. `kv`: `Backend.kv_identity`. `template`: digest of the chat template."""
        self.store = store
        self._contents = BaseDigests(store.layout.bases)
        self._base = base
        self._kv, self._template = kv, template
        self._seen = SeenPrefixes()
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[PrefixWrite, SavedKv] | None] = queue.SimpleQueue()
        self._waiting = 0
        """Bytes that are not written yet."""
        self._thread: threading.Thread | None = None
        digest = self._contents.known(base)
        self._computer = None if digest is None else Computer(kv, digest, template)
        """None while the base's digest is not known: then nothing can have been kept."""

    def look(self, request: Request) -> PrefixLookup:
        """Any thread but the engine's: it looks at folders. Never raises."""
        key: Key = frozenset(use.key for use in request.adapters)
        prefix = self._find(key, request.prompt)
        system = request.prompt[: request.system]
        acting = frozenset(use for use in key if use[2] < len(system))
        if len(system) < MIN_TOKENS or not self.store.budget_bytes or not self._seen.again(acting, system):
            return PrefixLookup(prefix)
        keep = PrefixWrite(acting, system)
        return PrefixLookup(prefix, None if self.there(keep) else keep)

    def there(self, keep: PrefixWrite) -> bool:
        """Return whether its tokens, all of them, are on disk already."""
        prefix = self._find(keep.key, keep.tokens)
        return prefix is not None and prefix.stored.length == len(keep.tokens)

    def read(self, found: FoundPrefix) -> SavedKv | EdgeloraError:
        """Read a prefix, in the loader thread. Raises nothing: what cannot be read is computed."""
        try:
            return self.store.read(found)
        except EdgeloraError as error:
            return error
        except Exception as error:  # Whatever a file causes must not end the thread that reads adapters too.
            _log.exception("reading %s failed", found.stored.path)
            return StorageError("prefix_unreadable", f"{found.stored.path}: {error}.")

    def wants(self, keep: PrefixWrite) -> bool:
        """Return whether it should be copied out now."""
        return keep.name is not None or self._waiting <= WAITING_BYTES

    def offer(self, keep: PrefixWrite, saved: SavedKv) -> None:
        """Have it written. Returns at once."""
        with self._lock:
            self._waiting += saved.data.nbytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edgelora-prefixes", daemon=True)
                self._thread.start()
        self._jobs.put((keep, saved))

    def know_base(self, report: Report | None = None) -> None:
        """Read the base for its digest, where that has not been done. Raises BaseError, StorageError."""
        if self._computer is None:
            self._computer = Computer(self._kv, self._contents.digest(self._base, report), self._template)

    def close(self, timeout: float) -> None:
        """Let the writer end what it has, within `timeout` seconds. Nothing may be offered any more."""
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(timeout)

    def _find(self, key: Key, tokens: tuple[int, ...]) -> FoundPrefix | None:
        computer = self._computer
        if computer is None or not tokens:
            return None
        return self.store.find(lambda length: computer.origin(key, length), key, tokens)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            keep, saved = job
            try:
                keep.done.set_result(self._write(keep, saved))
            except Exception as error:  # Nobody's answer depends on it; who waits for this one hears of it.
                _log.warning("a prefix of %d tokens is not kept: %s", saved.length, error)
                keep.done.set_exception(error)
            finally:
                with self._lock:
                    self._waiting -= saved.data.nbytes
                del job, saved  # or the bytes would stay until the next one comes

    def _write(self, keep: PrefixWrite, saved: SavedKv) -> StoredPrefix:
        self.know_base()
        computer = self._computer
        if computer is None or saved.identity != computer.kv:
            raise BackendError("foreign_kv", "The KV is not this backend's.")
        origin = computer.origin(keep.key, len(keep.tokens))
        stored = self.store.keep(origin, keep.tokens, saved, name=keep.name)
        _log.info("kept a prefix of %d tokens: %s", stored.length, stored.path)
        return stored
