"""KV between the backend and the disk, on the engine's thread: what is read is put into the KV as if it were warm, what
is to be kept is copied out between two steps. Waits for nothing; owns who waits for what.
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
"""Tokens: a prefix on disk that is not longer than what is warm by more than this is not read."""


@dataclass(frozen=True, slots=True)
class PrefixRead:
    """The loader's word for a prefix; the engine's command."""

    found: FoundPrefix
    outcome: SavedKv | EdgeloraError


@dataclass(slots=True)
class _PendingRead:
    """A prefix to be read, and for whom."""

    found: FoundPrefix
    waiting: list[str]


class PrefixTransfer:
    """Without a cache it does nothing. `look` may be called from any thread, the rest from the engine's alone."""

    def __init__(self, cache: PrefixCache | None, scheduler: Scheduler, backend: Backend, loader: Loader) -> None:
        self._cache = cache
        self._scheduler = scheduler
        self._backend = backend
        self._loader = loader
        self._pending: deque[_PendingRead] = deque()
        """The first one is being read: never two, so that no more than one is in memory."""
        self._keeps: dict[str, PrefixWrite] = {}
        """By request."""

    def look(self, request: Request, keep: PrefixWrite | None = None) -> PrefixLookup:
        """`keep`: what is to be kept of it in any case."""
        look = PrefixLookup() if self._cache is None else self._cache.look(request)
        return look if keep is None else PrefixLookup(look.found, keep)

    def submit(self, request: Request, look: PrefixLookup) -> None:
        """To the scheduler; where its prefix is worth reading it waits for that. Raises as the scheduler does."""
        prefix = look.found
        worth = prefix is not None and prefix.stored.length > self._scheduler.known(request) + LITTLE
        self._scheduler.submit(request, prefix=worth)
        if look.keep is not None:
            self._keeps[request.id] = look.keep
        if worth and prefix is not None:
            self._want(prefix, request.id)

    def take(self, read: PrefixRead) -> tuple[str, ...]:
        """Put what was read into the KV. Return the requests that waited for this alone and are ready now."""
        pending = self._pending.popleft()
        if isinstance(read.outcome, EdgeloraError):
            _log.info("a prefix is computed instead of read: %s", read.outcome)
        elif any(self._scheduler.state(request_id) is not None for request_id in pending.waiting):
            self._restore(read.found, read.outcome)
        if self._pending:
            self._read_first()
        return tuple(name for name in pending.waiting if self._scheduler.prefix_done(name))

    def to_keep(self, plan: Plan) -> list[tuple[int, PrefixWrite]]:
        """Return what will be computed once this plan's step is: sequence ids and what of them is to be kept.

        Asked before the step is applied, for a request that ends with it gives its id back.
        """
        writes = []
        for row in plan.rows:
            keep = self._keeps.get(row.request_id)
            if keep is not None and row.chunk.position + len(row.chunk.tokens) >= len(keep.tokens):
                writes.append((row.chunk.sequence, self._keeps.pop(row.request_id)))
        return writes

    def keep(self, keeps: list[tuple[int, PrefixWrite]]) -> None:
        """Copy out what was computed, before anything else is done to the KV."""
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
        """It ended."""
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
