"""The factors of several adapters in one array each, so that one pair of products serves all of a step's rows.

Rows find their adapter's factors by number (`mx.gather_mm`). Adapters are stacked by rank, module by module, so nothing
is padded. A stack is a copy: it is made for adapters that meet in steps again and again, is kept as long as these do,
and is never larger than it may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from edgelora.backends.mlx.adapter import Factors
from edgelora.backends.mlx.layout import Segment
from edgelora.backends.mlx.matrix import Array
from edgelora_converters.lora.adapter import Target


@dataclass(frozen=True, slots=True, eq=False)
class _Stack:
    places: Mapping[int, int]
    """By slot: its number in the arrays."""
    a: Array
    """[adapters, in, rank]"""
    b: Array
    """[adapters, rank, out]"""


_Run = tuple[int, int, int, float]
"""An adapter's number in a stack, first row, end, weight."""


@dataclass(frozen=True, slots=True, eq=False)
class _StackLookup:
    """The rows of each factor, sorted by the factors."""

    places: Array
    rows: Array
    """The rows; None where they are all rows, in order."""
    weights: Array
    """The weights; None where all are 1."""


def _finding(runs: Sequence[_Run], *, rows: int) -> _StackLookup:
    places = [place for place, start, stop, _ in runs for _ in range(start, stop)]
    numbers = [number for _, start, stop, _ in runs for number in range(start, stop)]
    weights = [weight for _, start, stop, weight in runs for _ in range(start, stop)]
    return _StackLookup(
        mx.array(places, mx.uint32),
        None if numbers == list(range(rows)) else mx.array(numbers, mx.uint32),
        mx.array(weights, mx.float32)[:, None, None] if any(weight != 1.0 for weight in weights) else None,
    )


@dataclass(slots=True, eq=False)
class Stacks:
    """Engine thread only. `limit` in bytes; 0: there are none."""

    limit: int
    _stacks: dict[tuple[Target, int], _Stack] = field(default_factory=dict)
    _latest: frozenset[int] = frozenset()
    _findings: dict[tuple[int, tuple[_Run, ...]], _StackLookup] = field(default_factory=dict)
    """Row lookups of the current step."""

    def begin(self, slots: Mapping[int, int]) -> bool:
        """A step of these slots, each with the bytes of its factors, is about to be computed. Whether it may stack.

        The first step of a set does not: it may be its last.
        """
        now = frozenset(slots)
        usable = len(now) > 1 and now <= self._latest and sum(slots.values()) <= self.limit
        self._latest = now
        self._findings.clear()
        if not usable:
            self._stacks.clear()
        return usable

    def forget(self, slot: int) -> None:
        """Forget the stacks with this slot, which may receive another adapter."""
        self._latest -= {slot}
        for key in [key for key, stack in self._stacks.items() if slot in stack.places]:
            del self._stacks[key]

    def add(self, target: Target, y: Array, x: Array, rows: Sequence[StackRow]) -> Array:
        """y [n, out] in float32 and the deltas of `rows`; x [n, in]. Plain LoRA alone."""
        for rank in sorted({row.rank for row in rows}):
            own = [row for row in rows if row.rank == rank]
            stack = self._stack(target, rank, own)
            by = self._find(stack, own, rows=y.shape[0])
            inner = (x if by.rows is None else x[by.rows]).astype(mx.float32)[:, None]
            inner = mx.gather_mm(inner, stack.a, rhs_indices=by.places, sorted_indices=True)
            if by.weights is not None:
                inner = inner * by.weights
            delta = mx.gather_mm(inner, stack.b, rhs_indices=by.places, sorted_indices=True)[:, 0]
            y = y + delta if by.rows is None else y.at[by.rows].add(delta)
        return y

    def _find(self, stack: _Stack, rows_of_rank: Sequence[StackRow], *, rows: int) -> _StackLookup:
        """Made once a step for all modules that have it alike."""
        key = tuple((stack.places[row.slot], row.start, row.stop, row.weight) for row in rows_of_rank)
        cached = self._findings.get((rows, key))
        if cached is None:
            cached = self._findings[rows, key] = _finding(key, rows=rows)
        return cached

    def _stack(self, target: Target, rank: int, rows: Sequence[StackRow]) -> _Stack:
        needed = {row.slot: row.factors for row in rows}
        cached = self._stacks.get((target, rank))
        if cached is None or not needed.keys() <= cached.places.keys():
            order = sorted(needed)
            a, b = (mx.stack([getattr(needed[slot], part) for slot in order]) for part in "ab")
            cached = self._stacks[target, rank] = _Stack({slot: n for n, slot in enumerate(order)}, a, b)
        return cached


@dataclass(frozen=True, slots=True, eq=False)
class StackRow:
    """Rows `start` to before `stop` that one adapter acts on."""

    start: int
    stop: int
    slot: int
    weight: float
    factors: Factors

    @property
    def rank(self) -> int:
        return int(self.factors.b.shape[0])


def rows_of(segments: Sequence[Segment], factors: Mapping[int, Factors]) -> list[StackRow]:
    """By slot, in order of the rows; of the slots that have `factors` for a module."""
    rows = [
        StackRow(segment.start, segment.stop, slot, weight, factors[slot])
        for segment in segments
        for slot, weight in segment.acting
        if slot in factors
    ]
    return sorted(rows, key=lambda row: (row.slot, row.start))
