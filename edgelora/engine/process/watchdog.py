"""When to give up a process that does not answer or a call that does not return, and the delay before a restart.

Pure: the caller owns the clock and calls at regular intervals. Intervals are counted, not seconds: while the machine
sleeps, or both processes are suspended, none passes and no process is given up.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.engine.process import messages


@dataclass(frozen=True, slots=True)
class WatchdogTimes:
    """Times of the supervisor in seconds; tests use shorter ones."""

    turn: float = 5.0
    """Seconds between two pings of a process that has work."""
    silent: float = 60.0
    """Maximum seconds without an answer to a ping.

    A thread of its own answers: only a stopped process, or native code that holds the GIL, is silent.
    """
    first: float = 300.0
    """Maximum seconds until the first answer: a starting process may read its modules from a busy disk."""
    least_delay: float = 0.25
    """Seconds before the second start in a row; doubled for each further one."""
    most_delay: float = 30.0
    steady: float = 60.0
    """Seconds of running after which a start counts as successful."""
    bound: float | None = None
    """Maximum seconds of a backend call, instead of the measured bound (`Pong.bound`)."""


class Watchdog:
    """The watch over one process."""

    def __init__(self, times: WatchdogTimes) -> None:
        self._times = times
        self._unanswered = 0
        self._limit = times.first
        self._last: messages.Pong | None = None
        self._same = 0
        """Number of answers in a row that tell of the same call, or of the same round."""

    def looked(self) -> str | None:
        """Record an interval and a new ping. Return why the process is given up, or None."""
        self._unanswered += 1
        if (self._unanswered - 1) * self._times.turn >= self._limit:
            return f"it did not answer for {self._limit:g} seconds"
        return None

    def ready(self) -> None:
        """Note that the base is in memory: from now on an answer may take `silent` seconds and no longer."""
        self._unanswered, self._limit = 0, self._times.silent

    def answered(self, pong: messages.Pong) -> str | None:
        """Note an answer. Return why the process is given up, or None."""
        self.ready()
        calling, last = pong.bound is not None, self._last
        self._last = pong
        if (not calling and pong.round is None) or last is None or not _same_work(last, pong):
            self._same = 0
            return None
        self._same += 1
        stood = self._same * self._times.turn
        if calling:
            limit = pong.bound if self._times.bound is None else self._times.bound
            hung = limit is not None and stood >= limit
            return f"one call into the backend did not return for {limit:g} seconds" if hung else None
        limit = self._times.silent
        return f"the engine's thread stood still for {limit:g} seconds" if stood >= limit else None


def _same_work(last: messages.Pong, now: messages.Pong) -> bool:
    return (last.call, last.round, last.bound is None) == (now.call, now.round, now.bound is None)


class Backoff:
    """The delay before each start: none after a process that ran steadily, longer with each one that did not."""

    def __init__(self, times: WatchdogTimes) -> None:
        self._times = times
        self._failures = 0

    @property
    def failures(self) -> int:
        """Number of unsuccessful starts in a row."""
        return self._failures

    def ended(self, ran: float) -> float:
        """Record an unrequested end after `ran` seconds. Return the seconds until the next start."""
        self._failures = 1 if ran >= self._times.steady else self._failures + 1
        if self._failures == 1:
            return 0.0
        return float(min(self._times.most_delay, self._times.least_delay * 2 ** (self._failures - 2)))
