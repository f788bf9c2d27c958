"""Adapters loaded though no request waits for them: pins, and hints that one will be asked for soon.

Owns which are wanted and who hears of it; the room is the pool's, the loading the engine's. The engine thread only.
Policies:
- A hint takes room only from adapters nobody holds, never while a request waits for room, and is otherwise forgotten.
- A pin's bytes are set aside at once and it waits for them: what runs is not disturbed. It is refused where the other
  pins, or a live request, leave no such room.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable
from dataclasses import replace

from edgelora.core.errors import AdapterError, EdgeloraError
from edgelora.core.request import AdapterRef, Request
from edgelora.engine.adapters.pool import Pool
from edgelora.engine.commands import Command, Preload
from edgelora.engine.scheduler.plan import Admission, Load


class Preloads:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._wanted: list[Preload] = []
        self._loading: list[Preload] = []
        """Theirs, or a request's load, has begun."""

    def begin(self, fetch: Preload, live: Iterable[Request]) -> None:
        """Take a wish down; the next `join` acts on it. `live`: requests that must not lose their room to a pin.

        A hint `instead_of` a pin ends that pin.
        """
        if fetch.pin:
            try:
                self._pin(fetch, live)
            except AdapterError as error:
                fetch.done.set_exception(error)
                return
        elif fetch.instead_of is not None:
            self._pool.unpin(fetch.instead_of)
        self._wanted.append(fetch)

    def join(self, admission: Admission) -> Admission:
        """With the loads there is room for now, after what the requests were given."""
        detach, loads = list(admission.detach), list(admission.loads)
        for fetch in tuple(self._wanted):
            if self._pool.slot(fetch.ref) is None and self._may_load(fetch, blocked=admission.blocked):
                reservation = self._pool.reserve(fetch.ref)
                detach += reservation.evicted
                loads.append(Load(fetch.ref, reservation.slot))
            self._move_on(fetch)
        return replace(admission, detach=tuple(detach), loads=tuple(loads))

    def settle(self, ref: AdapterRef, error: EdgeloraError | None) -> None:
        """A load ended, whoever asked for it."""
        for fetch in [fetch for fetch in self._loading if fetch.ref.key == ref.key]:
            self._loading.remove(fetch)
            if fetch.pin and error is not None:
                self._pool.unpin(ref)
                fetch.done.set_exception(error)
            else:
                fetch.done.set_result(error is None)

    def stop(self, commands: queue.SimpleQueue[Command], error: EdgeloraError) -> None:
        """Nothing will be loaded any more: tell everyone, those still in the queue too."""
        while not commands.empty():
            if isinstance(command := commands.get(), Preload):
                self._wanted.append(command)
        for fetch in (*self._wanted, *self._loading):
            fetch.done.set_exception(error)
        self._wanted, self._loading = [], []

    def _pin(self, fetch: Preload, live: Iterable[Request]) -> None:
        before = self._pool.pinned
        if fetch.instead_of is not None:
            self._pool.unpin(fetch.instead_of)
        try:
            self._pool.pin(fetch.ref)
            for request in live:
                self._pool.check_fits(*(use.ref for use in request.adapters))
        except AdapterError:
            self._pool.pinned = before
            raise

    def _may_load(self, fetch: Preload, *, blocked: bool) -> bool:
        if blocked and not fetch.pin:
            return False
        try:
            return self._pool.can_hold(fetch.ref)
        except AdapterError:
            return False  # a hint for what could never be loaded beside the pins

    def _move_on(self, fetch: Preload) -> None:
        if self._pool.resident(fetch.ref):
            self._wanted.remove(fetch)
            fetch.done.set_result(True)
        elif self._pool.slot(fetch.ref) is not None:
            self._wanted.remove(fetch)
            self._loading.append(fetch)
        elif not fetch.pin:
            self._wanted.remove(fetch)
            fetch.done.set_result(False)
