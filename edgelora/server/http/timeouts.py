"""How long a request may wait for its place, and take altogether. Pure: the caller has the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgelora.core.errors import EdgeloraError, Unavailable


@dataclass(frozen=True, slots=True)
class RequestTimeouts:
    queue_seconds: float | None = None
    """Until it has a place in the batch; None is without limit. A place that was lost again does not count."""
    deadline_seconds: float | None = None
    """Until its answer is complete."""

    def left(self, waited: float, *, placed: bool) -> float:
        """Seconds until one of the limits; infinite where there is none."""
        limits = (None if placed else self.queue_seconds, self.deadline_seconds)
        return max(0.0, min((limit for limit in limits if limit is not None), default=math.inf) - waited)

    def spent(self, waited: float, *, placed: bool) -> EdgeloraError | None:
        """What a request that has `waited` so long ends with, or None while it may go on."""
        from edgelora.server.http.errors import DeadlineExceeded  # not at the top: the options are read for `--help`

        if self.deadline_seconds is not None and waited >= self.deadline_seconds:
            from edgelora.server.http.errors import DeadlineExceeded  # with msgspec, which --help does without

            return DeadlineExceeded(
                "deadline_exceeded",
                f"The answer was not complete after {self.deadline_seconds:g} seconds.",
                "Ask for a shorter one (max_tokens), or start the server with a later deadline (--deadline).",
            )
        if not placed and self.queue_seconds is not None and waited >= self.queue_seconds:
            return Unavailable(
                "queue_timeout",
                f"The request found no place in {self.queue_seconds:g} seconds.",
                "Send it again when fewer are waiting.",
                retry_after=self.queue_seconds,
            )
        return None


ENDLESS = RequestTimeouts()
DEFAULT = RequestTimeouts(queue_seconds=300.0)
