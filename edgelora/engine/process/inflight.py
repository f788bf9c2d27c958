"""The requests that are on their way in the engine's process, as its parent knows them: who waits for what, what became
visible of it, and what is sent again after a crash. No I/O, no clock, no threads; the caller holds a lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgelora.core.engine_errors import queue_full
from edgelora.core.errors import UsageError
from edgelora.core.events import Finished, TextDelta, Timings
from edgelora.core.request import AdapterRef, Request
from edgelora.engine.prefix_cache.cache import PrefixWrite
from edgelora.engine.stream import Stream

ATTEMPTS = 2
"""Processes that a request, or a pin, is given to: what nobody saw anything of is sent again once."""
_RECENT = 0.2
"""The weight of one finished request in the estimate of waiting times, as in the engine."""


@dataclass(slots=True)
class InflightRequest:
    request: Request
    stream: Stream
    keep: PrefixWrite | None
    since: float
    """When it was accepted, in time.monotonic."""
    sent: float = 0.0
    """When it was last given to a process."""
    attempts: int = 0
    """How many processes it was given to."""
    seen: bool = False
    """Whether any of its answer was handed out."""
    cancelled: bool = False
    """Whether somebody asked for its end."""

    def begin(self, now: float) -> None:
        """It is given to a process; what an earlier one made of it is void."""
        self.attempts += 1
        self.sent = now
        if self.seen:
            self.seen = False
            self.stream.put(TextDelta("", anew=True))

    def timed(self, finished: Finished) -> Finished:
        """With what it waited for earlier processes."""
        times = finished.timings
        return replace(finished, timings=replace(times, queued=times.queued + self.sent - self.since))

    @property
    def shown(self) -> bool:
        """Whether a reader saw what cannot be taken back."""
        return self.seen and not self.stream.whole


class InflightRequests:
    """By request id, in the order they came."""

    def __init__(self) -> None:
        self._live: dict[str, InflightRequest] = {}
        self.patience = 1.0
        """Seconds a request takes once it runs, as the latest ones did."""

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[InflightRequest]:
        return iter(tuple(self._live.values()))

    def get(self, request_id: str) -> InflightRequest | None:
        return self._live.get(request_id)

    def take(self, entry: InflightRequest, *, capacity: int) -> None:
        """Raises UsageError(code duplicate_id), Busy(code queue_full) at `capacity`."""
        name = entry.request.id
        if name in self._live:
            raise UsageError("duplicate_id", f"A request with the id {name!r} is running.", param="id")
        if len(self._live) >= capacity:
            raise queue_full(len(self._live), retry_after=self.patience)
        self._live[name] = entry

    def land(self, request_id: str) -> InflightRequest | None:
        """It ended; None for one that had ended before."""
        return self._live.pop(request_id, None)

    def took(self, timings: Timings) -> None:
        """Note the times of a request that finished."""
        self.patience += _RECENT * (timings.prefill + timings.decode - self.patience)

    def give_up(self, ref: AdapterRef) -> None:
        """Send no request that needs this adapter again."""
        for entry in self:
            if any(use.ref.key == ref.key for use in entry.request.adapters):
                entry.attempts = ATTEMPTS

    def crash(self) -> list[InflightRequest]:
        """Remove and return those that end with a process that died. The others are to be sent again."""
        lost = [one for one in self if one.shown or one.cancelled or one.attempts >= ATTEMPTS]
        for entry in lost:
            del self._live[entry.request.id]
        return lost
