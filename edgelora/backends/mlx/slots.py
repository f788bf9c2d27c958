"""The attached adapters, and what they make of a module's product: y0 to y0 + sum of w_k (change of adapter k).

Each adapter keeps arrays of its own, at its own ranks: attaching copies nothing and recompiles nothing, and what is
detached is free at once. A step's rows stand sorted by what acts on them, so an adapter's factors are read once for all
its rows. Two ways compute the same: run by run, and by stacked factors where several adapters meet again and again
(`stacks`); docs/decisions/0007-mlx.md says what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx

from edgelora.backends.mlx.adapter import Factors, LoadedMlx
from edgelora.backends.mlx.layout import Acting, Segment
from edgelora.backends.mlx.matrix import Array
from edgelora.backends.mlx.stacks import Stacks, rows_of
from edgelora_converters.lora.adapter import Target
from edgelora_models.modules import EMBEDDING


class Slots:
    """The attached adapters by slot. Engine thread only."""

    def __init__(self, *, stack_bytes: int) -> None:
        self._slots: dict[int, Mapping[Target, Factors]] = {}
        self._nbytes: dict[int, int] = {}
        self._stacks = Stacks(stack_bytes)
        self._stacking = False

    def attach(self, slot: int, loaded: LoadedMlx) -> None:
        self._slots[slot] = loaded.factors
        self._nbytes[slot] = loaded.nbytes

    def detach(self, slot: int) -> None:
        self._slots.pop(slot, None)
        self._stacks.forget(slot)

    def begin(self, segments: Sequence[Segment]) -> None:
        """Prepare a step of these rows."""
        slots = {slot for segment in segments for slot, _ in segment.acting}
        self._stacking = self._stacks.begin({slot: self._nbytes[slot] for slot in slots})

    def changed(self, target: Target, y: Array, x: Array, segments: Sequence[Segment]) -> Array:
        """The base's product `y` [n, out] of the rows `x` [n, in], of the embedding the tokens [n], with each segment's
        adapters applied. Sums in float32, rounded once to y's type."""
        if self._stacking and target.module != EMBEDDING:
            acting = {slot for segment in segments for slot, _ in segment.acting}
            factors = {slot: change for slot in acting if (change := self._slots[slot].get(target)) is not None}
            if len(factors) > 1 and all(factor.plain for factor in factors.values()):
                total = self._stacks.add(target, y.astype(mx.float32), x, rows_of(segments, factors))
                return total.astype(y.dtype)
        return self._by_runs(target, y, x, segments)

    def _by_runs(self, target: Target, y: Array, x: Array, segments: Sequence[Segment]) -> Array:
        """Segment by segment, with each adapter's own arrays."""
        parts, touched, begin = [], False, 0
        for segment in segments:
            changes = self._changes(target, segment.acting)
            if not changes:
                continue
            if segment.start > begin:
                parts.append(y[begin : segment.start])
            rows = slice(segment.start, segment.stop)
            parts.append(_changed(y[rows], x[rows], changes, lookup=target.module == EMBEDDING))
            begin, touched = segment.stop, True
        if not touched:
            return y
        if begin < y.shape[0]:
            parts.append(y[begin:])
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    def _changes(self, target: Target, acting: Acting) -> list[tuple[Factors, float]]:
        changes = ((self._slots[slot].get(target), weight) for slot, weight in acting)
        return [(factors, weight) for factors, weight in changes if factors is not None]


def _changed(y: Array, x: Array, changes: list[tuple[Factors, float]], *, lookup: bool) -> Array:
    base = y.astype(mx.float32)
    total = base
    for factors, weight in changes:
        inner = factors.a[x] if lookup else x.astype(mx.float32) @ factors.a
        change = inner @ factors.b
        if factors.row_scale is not None:
            change = factors.row_scale * (base + change) - base
        if factors.bias is not None:
            change = change + factors.bias
        total = total + (change if weight == 1.0 else weight * change)
    return total.astype(y.dtype)
