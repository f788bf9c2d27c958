"""KV between the backend and the disk, on the engine's thread: what is read is put into the KV as if it were warm, what
is to be kept is copied out between two steps. Waits for nothing; owns who waits for what.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgelora.adapters.loader import Loader
from edgelora.backends.base import Backend, SavedKv
from edgelora.core import Request
from edgelora.errors import EdgeloraError
from edgelora.plan import Plan
from edgelora.prefixes.cache import Keep, Look, PrefixCache
from edgelora.prefixes.store import Found
from edgelora.scheduler import Scheduler

_log = logging.getLogger(__name__)

LITTLE = 16
"""Tokens: a prefix on disk that is not longer than what is warm by more than this is not read."""


@dataclass(frozen=True, slots=True)
class PrefixRead:
    """The loader's word for a prefix; the engine's command."""

    found: Found
    outcome: SavedKv | EdgeloraError


@dataclass(slots=True)
class _Wish:
    """A prefix to be read, and for whom."""

    found: Found
    waiting: list[str]


class Traffic:
    """Without a cache it does nothing. `look` may be called from any thread, the rest from the engine's alone."""

    def __init__(self, cache: PrefixCache | None, scheduler: Scheduler, backend: Backend, loader: Loader) -> None:
        self._cache = cache
        self._scheduler = scheduler
        self._backend = backend
        self._loader = loader
        self._wishes: deque[_Wish] = deque()
        """The first one is being read: never two, so that no more than one is in memory."""
        self._keeps: dict[str, Keep] = {}
        """By request."""

    def look(self, request: Request, keep: Keep | None = None) -> Look:
        """`keep`: what is to be kept of it in any case."""
        look = Look() if self._cache is None else self._cache.look(request)
        return look if keep is None else Look(look.found, keep)

    def submit(self, request: Request, look: Look) -> None:
        """To the scheduler; where its prefix is worth reading it waits for that. Raises as the scheduler does."""
        found = look.found
        worth = found is not None and found.stored.length > self._scheduler.known(request) + LITTLE
        self._scheduler.submit(request, prefix=worth)
        if look.keep is not None:
            self._keeps[request.id] = look.keep
        if worth and found is not None:
            self._want(found, request.id)

    def take(self, read: PrefixRead) -> tuple[str, ...]:
        """What was read goes into the KV. Returns the requests that waited for this alone and are ready now."""
        wish = self._wishes.popleft()
        if isinstance(read.outcome, EdgeloraError):
            _log.info("a prefix is computed instead of read: %s", read.outcome)
        elif any(self._scheduler.state(request_id) is not None for request_id in wish.waiting):
            self._restore(read.found, read.outcome)
        if self._wishes:
            self._read_first()
        return tuple(name for name in wish.waiting if self._scheduler.prefix_done(name))

    def to_keep(self, plan: Plan) -> list[tuple[int, Keep]]:
        """What will be computed once this plan's step is: sequence ids and what of them is to be kept.

        Asked before the step is applied, for a request that ends with it gives its id back.
        """
        found = []
        for row in plan.rows:
            keep = self._keeps.get(row.request_id)
            if keep is not None and row.chunk.position + len(row.chunk.tokens) >= len(keep.tokens):
                found.append((row.chunk.sequence, self._keeps.pop(row.request_id)))
        return found

    def keep(self, keeps: list[tuple[int, Keep]]) -> None:
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

    def _want(self, found: Found, request_id: str) -> None:
        for wish in self._wishes:
            if wish.found == found:
                wish.waiting.append(request_id)
                return
        self._wishes.append(_Wish(found, [request_id]))
        if len(self._wishes) == 1:
            self._read_first()

    def _read_first(self) -> None:
        found, read = self._wishes[0].found, self._reader()
        self._loader.call(lambda: PrefixRead(found, read(found)))

    def _reader(self) -> Callable[[Found], SavedKv | EdgeloraError]:
        if self._cache is None:
            raise RuntimeError("there is nothing to read prefixes from")
        return self._cache.read

    def _restore(self, found: Found, saved: SavedKv) -> None:
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
