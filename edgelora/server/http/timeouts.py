"""Limits of a request's time in the queue and in total. Pure: the caller has the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgelora.core.errors import EdgeloraError, Unavailable


@dataclass(frozen=True, slots=True)
class RequestTimeouts:
    queue_seconds: float | None = None
    """Maximum seconds until the request first runs; None: no limit."""
    deadline_seconds: float | None = None
    """Maximum seconds until the answer is complete; None: no limit."""

    def left(self, waited: float, *, placed: bool) -> float:
        """Return the seconds until the nearest limit; infinite if there is none.

        `waited`: seconds since the request came. `placed`: True once it has run.
        """
        limits = (None if placed else self.queue_seconds, self.deadline_seconds)
        return max(0.0, min((limit for limit in limits if limit is not None), default=math.inf) - waited)

    def spent(self, waited: float, *, placed: bool) -> EdgeloraError | None:
        """Return the error of a request that reached a limit, or None while it may continue."""

        if self.deadline_seconds is not None and waited >= self.deadline_seconds:
            # Not at the top of the module, because `edgelora serve --help` reads the options.
            from edgelora.server.http.errors import DeadlineExceeded

            return DeadlineExceeded(
                "deadline_exceeded",
                f"The answer was not complete after {self.deadline_seconds:g} seconds.",
                "Ask for a shorter one (max_tokens), or start the server with a later deadline (--deadline).",
            )
        if not placed and self.queue_seconds is not None and waited >= self.queue_seconds:
            return Unavailable(
                "queue_timeout",
                f"The request waited {self.queue_seconds:g} seconds without being started.",
                "Send it again when fewer requests are waiting.",
                retry_after=self.queue_seconds,
            )
        return None


ENDLESS = RequestTimeouts()
DEFAULT = RequestTimeouts(queue_seconds=300.0)
