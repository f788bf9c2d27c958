"""The cost of a step by its number of rows, learned from measured steps, as estimates and as bounds.

Owns the measurements but no clock: the engine measures. `prefill_chunks.py` decides what follows from the costs. If
memory bandwidth is the limit, 16 rows cost about as much as one; if arithmetic is, n rows may cost n times as much as
one; and if kernels work in blocks, 15 rows may cost more than 16. The bounds rest on the only rule that always holds: a
step costs no more than any set of smaller steps into which it can be split.

A step is never faster than the machine, but another process may make it ten times slower. The estimate of a size is
therefore the lower quartile of its latest steps, which tolerates up to three disturbed steps in four. A size counts as
too slow only if even its fastest step was (`best`): with few steps the quartile itself may be a disturbed one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache

WINDOW = 32
"""Number of latest steps of a size that are kept."""
ENOUGH = 3
"""Number of steps after which a size is known; with fewer, all of them might be disturbed."""
FRESH = 192
"""Number of steps of any size after which an unmeasured size is no longer known and is tried again.

Another process may have disturbed all its measurements. With a smaller value, tries would be one step in a hundred.
"""


@dataclass(slots=True)
class _Size:
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    """Seconds of the latest steps."""
    seconds: float = 0.0
    """Lower quartile of `latest`; the minimum if there are few."""
    seen: int = 0
    """Total number of steps at the last measurement of this size."""

    def add(self, seconds: float, now: int) -> None:
        if now - self.seen > FRESH:
            self.latest.clear()
        self.latest.append(seconds)
        self.seconds = sorted(self.latest)[(len(self.latest) - 1) // 4]
        self.seen = now

    @property
    def enough(self) -> bool:
        return len(self.latest) >= ENOUGH


class StepCosts:
    """The step costs of one base on one machine. Not thread-safe: used by the engine thread only."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._steps = 0
        self._most: dict[int, float | None] = {}
        self._rests: dict[int, float | None] = {}
        """Cached results of `at_most` and `_in_parts` since an estimate last changed."""

    def observe(self, rows: int, seconds: float) -> None:
        """Record the seconds of a step of `rows` tokens over all its chunks."""
        self._steps += 1
        size = self._sizes.setdefault(size_of(rows), _Size())
        before = size.seconds
        size.add(seconds, self._steps)
        if size.seconds != before:
            self._most.clear()
            self._rests.clear()

    def seconds(self, rows: int) -> float | None:
        """Return the estimated seconds of an undisturbed step; one measurement is enough.

        Interpolates linearly between measured sizes. Returns None if neither this size nor both a smaller and a larger
        one were measured.
        """
        own = self._sizes.get(size_of(rows))
        return own.seconds if own else self._between(rows, list(self._sizes))

    def known(self, rows: int) -> float | None:
        """Return the seconds of a size that was measured often enough and recently enough, otherwise None."""
        own = self._sizes.get(size_of(rows))
        return own.seconds if own and own.enough and self._steps - own.seen <= FRESH else None

    def best(self, rows: int) -> float | None:
        """Return the shortest recent step of a known size, otherwise None. If it is too long, the size is too slow."""
        measured = self.known(rows)
        return measured and min(self._sizes[size_of(rows)].latest)

    def guess(self, rows: int) -> float | None:
        """Return an estimate interpolated between the nearest known sizes, ignoring this size's own measurements."""
        return self._between(rows, [size for size in self._sizes if self.known(size) is not None])

    def at_least(self, rows: int) -> float:
        """Return a lower bound in seconds, from this size or from larger ones that contain it; 0.0 if there is none."""
        own = self._sizes.get(size_of(rows))
        if own and own.enough:
            return own.seconds
        larger = ((size, measured) for size, measured in self._sizes.items() if measured.enough and size > rows > 0)
        return max((measured.seconds / -(-size // rows) for size, measured in larger), default=0.0)

    def at_most(self, rows: int) -> float | None:
        """Return an upper bound in seconds by splitting the step into measured sizes; None if that is impossible."""
        if rows not in self._most:
            bounds = [
                rows // size * measured.seconds + rest
                for size, measured in self._sizes.items()
                if size <= rows and (rest := self._in_parts(rows % size)) is not None
            ]
            self._most[rows] = min(bounds, default=None)
        return self._most[rows]

    def _between(self, rows: int, sizes: list[int]) -> float | None:
        below = max((size for size in sizes if size < rows), default=None)
        above = min((size for size in sizes if size > rows), default=None)
        if below is None or above is None:
            return None
        low, high = self._sizes[below].seconds, self._sizes[above].seconds
        return low + (high - low) * (rows - below) / (above - below)

    def _in_parts(self, rows: int) -> float | None:
        """Return the same bound for a remainder split into parts of one size; a smaller last part costs as much."""
        if not rows:
            return 0.0
        if rows not in self._rests:
            parts = (-(-rows // size) * measured.seconds for size, measured in self._sizes.items() if size <= rows)
            self._rests[rows] = min(parts, default=None)
        return self._rests[rows]


def size_of(rows: int) -> int:
    """Return the size that stands for `rows`: `rows` itself up to 32, then the end of its eighth of an octave.

    Kernels work in blocks of 4 or 16 rows, so neighbours may differ, and the end of a block is a size of its own.
    """
    width = 1 if rows <= 32 else 1 << ((rows - 1).bit_length() - 4)
    return -(-rows // width) * width


@lru_cache(maxsize=64)
def sizes(most: int) -> tuple[int, ...]:
    """Return all sizes from 1 to `most`, smallest first."""
    return tuple(rows for rows in range(1, most + 1) if size_of(rows) == rows)
