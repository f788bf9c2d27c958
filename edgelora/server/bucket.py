"""A token bucket: so much a minute, refilled evenly, at most one minute's worth saved up. Pure: it has no clock."""

from __future__ import annotations


class Bucket:
    def __init__(self, per_minute: int, *, now: float) -> None:
        """Full at `now`. Times are seconds of a clock that never goes back."""
        self.per_minute = per_minute
        self._rate = per_minute / 60
        self._level = float(per_minute)
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` (of a minute's worth at most) can be taken; 0.0 where it can be now."""
        return max(0.0, (min(amount, self.per_minute) - self.level(now)) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Below zero where more was used than there was: what is only known afterwards is paid off by waiting."""
        self._level = self.level(now) - amount
        self._at = max(self._at, now)

    def level(self, now: float) -> float:
        """What could be taken now; negative while something is owed."""
        return min(float(self.per_minute), self._level + max(0.0, now - self._at) * self._rate)

    def full_in(self, now: float) -> float:
        """Seconds until it is full again, if nothing more is taken."""
        return (self.per_minute - self.level(now)) / self._rate
