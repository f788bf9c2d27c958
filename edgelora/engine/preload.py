"""Adapters loaded although no request waits for them: pins, and hints that one will be requested soon.

Owns the list of wanted adapters and their futures; the pool owns the room and the engine loads. Engine thread only.
Policies:
- A hint takes room only from adapters without a lease, never while a request waits for room. Otherwise it is dropped.
- A pin's bytes are reserved at once, and it waits for room without disturbing running requests. It is refused if the
other pins or a live request leave no room for it.
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
        """Preloads whose adapter is being loaded, for them or for a request."""

    def begin(self, fetch: Preload, live: Iterable[Request]) -> None:
        """Record a preload for the next `join`. `live`: requests that must not lose their room to a pin.

        A hint with `instead_of` unpins that adapter.
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
        """Return the admission plus the loads for which there is room after the requests' own."""
        detach, loads = list(admission.detach), list(admission.loads)
        for fetch in tuple(self._wanted):
            if self._pool.slot(fetch.ref) is None and self._may_load(fetch, blocked=admission.blocked):
                reservation = self._pool.reserve(fetch.ref)
                detach += reservation.evicted
                loads.append(Load(fetch.ref, reservation.slot))
            self._move_on(fetch)
        return replace(admission, detach=tuple(detach), loads=tuple(loads))

    def settle(self, ref: AdapterRef, error: EdgeloraError | None) -> None:
        """Resolve the preloads of an adapter whose load ended, whether or not a preload started it."""
        for fetch in [fetch for fetch in self._loading if fetch.ref.key == ref.key]:
            self._loading.remove(fetch)
            if fetch.pin and error is not None:
                self._pool.unpin(ref)
                fetch.done.set_exception(error)
            else:
                fetch.done.set_result(error is None)

    def stop(self, commands: queue.SimpleQueue[Command], error: EdgeloraError) -> None:
        """Fail all preloads, including those still queued in `commands`."""
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
