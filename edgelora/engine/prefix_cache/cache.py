"""The prefixes of one resident base: lookup on disk, the decision to keep one, and the writer thread.

The engine looks prefixes up on the requests' threads, reads them on its loader thread, and hands over bytes between two
steps; it waits for the disk nowhere else. At most one prefix being read is in memory, and at most WAITING_BYTES plus
one prefix waiting to be written, each no larger than the KV of one sequence. All other cached KV stays in the KV cells,
and files that are read often stay in the system's page cache: a second cache in memory would duplicate them.
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
"""Minimum tokens of a system prompt that is kept automatically.

Llama 3's template alone makes about 30 tokens of an empty one. Computing 64 tokens takes an 8B base three seconds on
two cores; a file costs a read, a digest, a turn of the engine, and 8 MB.
"""


WAITING_BYTES = 64 << 20
"""Maximum bytes waiting to be written; above it no prefix is kept automatically, since it will be seen again."""


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
    """Longest prefix of the prompt on disk."""
    keep: PrefixWrite | None = None
    """Prefix of the prompt that should be written to disk."""


def open_cache(store: PrefixStore, base: BaseRecord, *, kv: str) -> PrefixCache | None:
    """Return the cache of a resident base with the `Backend.kv_identity` `kv`; None if prefixes are switched off."""
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
        """None while the base's digest is unknown; no prefix can have been kept then."""

    def look(self, request: Request) -> PrefixLookup:
        """Look up the request's prompt. Call from any thread but the engine's, since it reads folders. Never raises."""
        key: Key = frozenset(use.key for use in request.adapters)
        prefix = self._find(key, request.prompt)
        system = request.prompt[: request.system]
        acting = frozenset(use for use in key if use[2] < len(system))
        if len(system) < MIN_TOKENS or not self.store.budget_bytes or not self._seen.again(acting, system):
            return PrefixLookup(prefix)
        keep = PrefixWrite(acting, system)
        return PrefixLookup(prefix, None if self.there(keep) else keep)

    def there(self, keep: PrefixWrite) -> bool:
        """Return True if all tokens of the prefix are on disk already."""
        prefix = self._find(keep.key, keep.tokens)
        return prefix is not None and prefix.stored.length == len(keep.tokens)

    def read(self, found: FoundPrefix) -> SavedKv | EdgeloraError:
        """Read a prefix on the loader thread. Never raises: an unreadable prefix is computed instead."""
        try:
            return self.store.read(found)
        except EdgeloraError as error:
            return error
        except Exception as error:  # Whatever a file causes must not end the thread that reads adapters too.
            _log.exception("reading %s failed", found.stored.path)
            return StorageError("prefix_unreadable", f"{found.stored.path}: {error}.")

    def wants(self, keep: PrefixWrite) -> bool:
        """Return True if the prefix should be copied out now."""
        return keep.name is not None or self._waiting <= WAITING_BYTES

    def offer(self, keep: PrefixWrite, saved: SavedKv) -> None:
        """Queue the prefix for writing. Returns at once."""
        with self._lock:
            self._waiting += saved.data.nbytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edgelora-prefixes", daemon=True)
                self._thread.start()
        self._jobs.put((keep, saved))

    def know_base(self, report: Report | None = None) -> None:
        """Compute the base's digest if it is unknown, which reads the file. Raises BaseError or StorageError."""
        if self._computer is None:
            self._computer = Computer(self._kv, self._contents.digest(self._base, report), self._template)

    def close(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the writer to finish. Nothing may be offered afterwards."""
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
