"""The requests in flight in the engine's process, as its parent knows them. No I/O, no clock, no threads.

Records who waits for what, how much of an answer was visible, and what is sent again after a crash. The caller holds a
lock.
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
"""Maximum number of processes that a request or a pin is sent to; one without visible output is sent again once."""
_RECENT = 0.2
"""Weight of one finished request in the estimate of waiting times, as in the engine."""


@dataclass(slots=True)
class InflightRequest:
    request: Request
    stream: Stream
    keep: PrefixWrite | None
    since: float
    """Time of acceptance, in seconds of time.monotonic."""
    sent: float = 0.0
    """Time of the last send to a process."""
    attempts: int = 0
    """Number of processes the request was sent to."""
    seen: bool = False
    """True if any of the answer was handed out."""
    cancelled: bool = False
    """True if a caller cancelled the request."""

    def begin(self, now: float) -> None:
        """Record a send to a process; output of an earlier process is void."""
        self.attempts += 1
        self.sent = now
        if self.seen:
            self.seen = False
            self.stream.put(TextDelta("", anew=True))

    def timed(self, finished: Finished) -> Finished:
        """Return `finished` with the time spent on earlier processes added to the queued time."""
        times = finished.timings
        return replace(finished, timings=replace(times, queued=times.queued + self.sent - self.since))

    @property
    def shown(self) -> bool:
        """True if a reader saw output that cannot be retracted."""
        return self.seen and not self.stream.whole


class InflightRequests:
    """Requests in flight by id, in the order of arrival."""

    def __init__(self) -> None:
        self._live: dict[str, InflightRequest] = {}
        self.patience = 1.0
        """Average seconds of recent requests, prefill and decode together."""

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[InflightRequest]:
        return iter(tuple(self._live.values()))

    def get(self, request_id: str) -> InflightRequest | None:
        return self._live.get(request_id)

    def take(self, entry: InflightRequest, *, capacity: int) -> None:
        """Add a request. Raises UsageError(code duplicate_id), or Busy(code queue_full) at `capacity`."""
        name = entry.request.id
        if name in self._live:
            raise UsageError("duplicate_id", f"A request with the id {name!r} is running.", param="id")
        if len(self._live) >= capacity:
            raise queue_full(len(self._live), retry_after=self.patience)
        self._live[name] = entry

    def land(self, request_id: str) -> InflightRequest | None:
        """Remove and return a request that ended; None if it had ended before."""
        return self._live.pop(request_id, None)

    def took(self, timings: Timings) -> None:
        """Record the times of a finished request."""
        self.patience += _RECENT * (timings.prefill + timings.decode - self.patience)

    def give_up(self, ref: AdapterRef) -> None:
        """Never resend requests that use this adapter."""
        for entry in self:
            if any(use.ref.key == ref.key for use in entry.request.adapters):
                entry.attempts = ATTEMPTS

    def crash(self) -> list[InflightRequest]:
        """Remove and return the requests that fail with a process that died. The others are to be sent again."""
        lost = [one for one in self if one.shown or one.cancelled or one.attempts >= ATTEMPTS]
        for entry in lost:
            del self._live[entry.request.id]
        return lost
