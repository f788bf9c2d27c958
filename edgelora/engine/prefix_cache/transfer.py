"""The transfer of KV between the backend and the disk, on the engine's thread.

A prefix that was read becomes cached KV; a prefix to be kept is copied out between two steps. Never blocks; owns the
list of requests that wait for each read.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgelora.backends.base import Backend
from edgelora.core.errors import EdgeloraError
from edgelora.core.kv import SavedKv
from edgelora.core.request import Request
from edgelora.engine.adapters.loader import Loader
from edgelora.engine.prefix_cache.cache import PrefixCache, PrefixLookup, PrefixWrite
from edgelora.engine.scheduler.plan import Plan
from edgelora.engine.scheduler.scheduler import Scheduler
from edgelora.store.prefixes.store import FoundPrefix

_log = logging.getLogger(__name__)

LITTLE = 16
"""Minimum number of tokens by which a prefix on disk must exceed the cached KV to be read, exclusive."""


@dataclass(frozen=True, slots=True)
class PrefixRead:
    """The loader's result for a prefix, as a command to the engine."""

    found: FoundPrefix
    outcome: SavedKv | EdgeloraError


@dataclass(slots=True)
class _PendingRead:
    """A prefix to be read, and the ids of the requests that wait for it."""

    found: FoundPrefix
    waiting: list[str]


class PrefixTransfer:
    """Moves prefixes; does nothing without a cache. Only `look` may be called from any thread but the engine's."""

    def __init__(self, cache: PrefixCache | None, scheduler: Scheduler, backend: Backend, loader: Loader) -> None:
        self._cache = cache
        self._scheduler = scheduler
        self._backend = backend
        self._loader = loader
        self._pending: deque[_PendingRead] = deque()
        """Pending reads. Only the first is in progress, so that at most one prefix is in memory."""
        self._keeps: dict[str, PrefixWrite] = {}
        """Prefixes to keep, by request id."""

    def look(self, request: Request, keep: PrefixWrite | None = None) -> PrefixLookup:
        """Look up the request's prompt. `keep`: a prefix of it to keep in any case."""
        look = PrefixLookup() if self._cache is None else self._cache.look(request)
        return look if keep is None else PrefixLookup(look.found, keep)

    def submit(self, request: Request, look: PrefixLookup) -> None:
        """Submit to the scheduler, waiting for the prefix if it is worth reading. Raises as the scheduler does."""
        prefix = look.found
        worth = prefix is not None and prefix.stored.length > self._scheduler.known(request) + LITTLE
        self._scheduler.submit(request, prefix=worth)
        if look.keep is not None:
            self._keeps[request.id] = look.keep
        if worth and prefix is not None:
            self._want(prefix, request.id)

    def take(self, read: PrefixRead) -> tuple[str, ...]:
        """Restore a prefix that was read into the KV. Return the requests that waited for it only and are ready now."""
        pending = self._pending.popleft()
        if isinstance(read.outcome, EdgeloraError):
            _log.info("a prefix is computed instead of read: %s", read.outcome)
        elif any(self._scheduler.state(request_id) is not None for request_id in pending.waiting):
            self._restore(read.found, read.outcome)
        if self._pending:
            self._read_first()
        return tuple(name for name in pending.waiting if self._scheduler.prefix_done(name))

    def to_keep(self, plan: Plan) -> list[tuple[int, PrefixWrite]]:
        """Return the sequence ids and prefixes to keep that are fully computed once this plan's step is done.

        Call it before the step is applied, because a request that ends with the step gives its sequence id back.
        """
        writes = []
        for row in plan.rows:
            keep = self._keeps.get(row.request_id)
            if keep is not None and row.chunk.position + len(row.chunk.tokens) >= len(keep.tokens):
                writes.append((row.chunk.sequence, self._keeps.pop(row.request_id)))
        return writes

    def keep(self, keeps: list[tuple[int, PrefixWrite]]) -> None:
        """Copy out computed prefixes. Call it before anything else changes the KV."""
        for sequence, keep in keeps:
            if self._cache is None or not self._cache.wants(keep):
                continue
            try:
                saved = self._backend.save(sequence, len(keep.tokens))
            except Exception as error:  # Who waits for it hears of it; no answer depends on it.
                _log.warning("a prefix of %d tokens is not kept: %s", len(keep.tokens), error)
                keep.done.set_exception(error)
            else:
                self._cache.offer(keep, saved)

    def forget(self, request_id: str) -> None:
        """Drop the prefix to keep of a request that ended."""
        keep = self._keeps.pop(request_id, None)
        if keep is not None:
            keep.done.cancel()

    def close(self, timeout: float) -> None:
        if self._cache is not None:
            self._cache.close(timeout)

    def _want(self, found: FoundPrefix, request_id: str) -> None:
        for pending in self._pending:
            if pending.found == found:
                pending.waiting.append(request_id)
                return
        self._pending.append(_PendingRead(found, [request_id]))
        if len(self._pending) == 1:
            self._read_first()

    def _read_first(self) -> None:
        prefix, read = self._pending[0].found, self._reader()
        self._loader.call(lambda: PrefixRead(prefix, read(prefix)))

    def _reader(self) -> Callable[[FoundPrefix], SavedKv | EdgeloraError]:
        if self._cache is None:
            raise RuntimeError("there is nothing to read prefixes from")
        return self._cache.read

    def _restore(self, found: FoundPrefix, saved: SavedKv) -> None:
        room = self._scheduler.make_room(found.stored.length)
        if room is None:
            return
        for move in room.moves:
            move.carry_out(self._backend)
        try:
            self._backend.restore(room.sequence, saved)
        except Exception as error:  # It is computed instead. The sequence is empty, or cleared with the next turn.
            _log.warning("a prefix is computed instead of restored: %s", error)
            self._scheduler.fill_room(room, found.origin.key, [])
        else:
            self._scheduler.fill_room(room, found.origin.key, list(found.tokens))
