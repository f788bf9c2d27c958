"""The cost of a step by its rows, learnt from measured steps, as estimates and as bounds.

Owns the measurements and no clock: the engine measures. What is done with it is `prefill_chunks.py`'s. Where
memory bandwidth
is the limit 16 rows cost about what one does; where arithmetic is, n rows may cost n times one; and where kernels work
in blocks, 15 may cost more than 16. One thing holds on all of them, and the bounds rest on it alone: a step costs no
more than the smaller ones it could be taken apart into.

A step is never faster than the machine, but another process may make it ten times slower. So a size's estimate is the
lower quartile of its latest steps: up to three disturbed ones in four leave it as it is. And a size is only to blame
for being slow where the best of its steps was (`best`): of few steps even the quartile may be a disturbed one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache

WINDOW = 32
"""Latest steps of a size that count."""
ENOUGH = 3
"""Steps after which a size is known; before, one disturbed step might be all there is."""
FRESH = 192
"""Steps of any size until one that was not among them is no longer known and worth another try: those it is known by
another process may all have disturbed. With fewer, tries would be one step in a hundred."""


@dataclass(slots=True)
class _Size:
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    """Seconds."""
    seconds: float = 0.0
    """The lower quartile of `latest`; of few the least."""
    seen: int = 0
    """Number of steps in all when it was last measured."""

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
    """The costs on one machine for one base. Not thread-safe: the engine's thread alone."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._steps = 0
        self._most: dict[int, float | None] = {}
        self._rests: dict[int, float | None] = {}
        """Cached results of `at_most` and `_in_parts` since an estimate last changed."""

    def observe(self, rows: int, seconds: float) -> None:
        """A step of `rows` tokens, over all its chunks, took so long."""
        self._steps += 1
        size = self._sizes.setdefault(size_of(rows), _Size())
        before = size.seconds
        size.add(seconds, self._steps)
        if size.seconds != before:
            self._most.clear()
            self._rests.clear()

    def seconds(self, rows: int) -> float | None:
        """Estimate the seconds of such a step when nothing disturbs it; between measured sizes a straight
        line. Once is enough.

        None where no step of that size, or none smaller and larger, was measured.
        """
        own = self._sizes.get(size_of(rows))
        return own.seconds if own else self._between(rows, list(self._sizes))

    def known(self, rows: int) -> float | None:
        """Seconds of a size that was measured often enough and not too long ago; else None."""
        own = self._sizes.get(size_of(rows))
        return own.seconds if own and own.enough and self._steps - own.seen <= FRESH else None

    def best(self, rows: int) -> float | None:
        """The least that a known size took lately; else None. Where even that is too long the size is to blame."""
        measured = self.known(rows)
        return measured and min(self._sizes[size_of(rows)].latest)

    def guess(self, rows: int) -> float | None:
        """Estimate it from the sizes around it, whatever it took itself: the line between the nearest that are
        known.
        """
        return self._between(rows, [size for size in self._sizes if self.known(size) is not None])

    def at_least(self, rows: int) -> float:
        """Seconds such a step takes at least, by itself or by larger ones it is a part of; 0.0 where nothing tells."""
        own = self._sizes.get(size_of(rows))
        if own and own.enough:
            return own.seconds
        larger = ((size, measured) for size, measured in self._sizes.items() if measured.enough and size > rows > 0)
        return max((measured.seconds / -(-size // rows) for size, measured in larger), default=0.0)

    def at_most(self, rows: int) -> float | None:
        """Seconds such a step takes at most, taken apart into measured ones; None where that cannot be done."""
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
        """Return the same for a rest, in parts of one size; the last may be smaller and counts as much."""
        if not rows:
            return 0.0
        if rows not in self._rests:
            parts = (-(-rows // size) * measured.seconds for size, measured in self._sizes.items() if size <= rows)
            self._rests[rows] = min(parts, default=None)
        return self._rests[rows]


def size_of(rows: int) -> int:
    """Return the size that stands for `rows`: itself up to 32, then the end of its eighth of an octave.

    Kernels work in blocks of 4 or 16 rows, so neighbours may differ, and the end of a block is a size of its own.
    """
    width = 1 if rows <= 32 else 1 << ((rows - 1).bit_length() - 4)
    return -(-rows // width) * width


@lru_cache(maxsize=64)
def sizes(most: int) -> tuple[int, ...]:
    """All sizes from 1 to `most`, smallest first."""
    return tuple(rows for rows in range(1, most + 1) if size_of(rows) == rows)
