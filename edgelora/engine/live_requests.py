"""The live requests by id, and whether new ones are accepted.

Owns the lock between submitting threads and the engine's. Accepting a request and passing it to the engine is one
atomic step, so every accepted request is answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Literal

from edgelora.core.engine_errors import engine_stopped, queue_full
from edgelora.core.errors import UsageError
from edgelora.core.request import Request
from edgelora.engine.request_state import RequestState


class LiveRequests:
    """Thread-safe, except that only the engine thread may call `forget` and `mark`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, RequestState] = {}
        self._stopped: str | None = None

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, request_id: str) -> RequestState:
        return self._runs[request_id]

    @property
    def stopped(self) -> str | None:
        """The reason why no more requests are accepted; None while they are."""
        return self._stopped

    def take(self, run: RequestState, *, capacity: int, retry_after: float, send: Callable[[], None]) -> None:
        """Register `run` and call `send` to pass it to the engine.

        Raises BackendError(code engine_stopped), UsageError(code duplicate_id) or Busy(code queue_full) at `capacity`.
        """
        name = run.request.id
        with self._lock:
            self._check_open()
            if name in self._runs:
                raise UsageError("duplicate_id", f"A request with the id {name!r} is running.", param="id")
            if len(self._runs) >= capacity:
                raise queue_full(len(self._runs), retry_after=retry_after)
            self._runs[name] = run
            send()

    def pass_on(self, send: Callable[[], None]) -> None:
        """Call `send` to pass the engine a command other than a request. Raises BackendError(code engine_stopped)."""
        with self._lock:
            self._check_open()
            send()

    def stop(self, why: str) -> None:
        """Accept no more requests; the first reason given is kept."""
        with self._lock:
            self._stopped = self._stopped or why

    def forget(self, request_id: str) -> RequestState:
        with self._lock:
            return self._runs.pop(request_id)

    def requests(self) -> list[Request]:
        return [run.request for run in list(self._runs.values())]

    def mark(self, request_ids: Iterable[str], change: Literal["loading", "loaded", "scheduled"]) -> None:
        """Record the time of a change. Changes after the first token are not recorded: they count as decoding time."""
        now = time.monotonic()
        for request_id in request_ids:
            run = self._runs[request_id]
            if change == "scheduled":
                run.stream.place()
            clock = run.clock
            if clock.first_token is None:
                setattr(clock, change, now)

    def fail_all(self, why: str) -> None:
        """Fail every request but keep the entries. Any thread may call it, also a close that ran out of time."""
        for run in list(self._runs.values()):
            run.fail(engine_stopped(why))

    def clear(self) -> None:
        self._runs.clear()

    def _check_open(self) -> None:
        if self._stopped is not None:
            raise engine_stopped(self._stopped)
