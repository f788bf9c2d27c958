"""The arithmetic of merging adapters into the rows of a base's weights, in float64. Owns no file.

A plain adapter adds w s B A to W. DoRA's W becomes g (W + s B A) with g = m / ||W + s B A|| by rows, so that it adds
w (g (W + s B A) - W). Every row needs its own row of W only, which is why a base can be merged block by block.

Source: PEFT 0.21.2, tuners/lora/layer.py and variants.py (merge_safe of Linear, Embedding and DoRA).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraPair, Target
from edgelora_converters.lora.combine import Part
from edgelora_converters.weights.base import BLOCK_BYTES, BaseWeights
from edgelora_models.modules import EMBEDDING, LINEAR_MODULES, OUTER_MODULES
from edgelora_models.shape import LlamaShape

_PLACE = {module: number for number, module in enumerate((*LINEAR_MODULES, *OUTER_MODULES))}

Wide = NDArray[np.float64]
Changes = Mapping[Target, Sequence[tuple[LoraPair, float]]]
"""For every module that changes, the pairs that change it with their weights."""


def changes(parts: Sequence[Part]) -> Changes:
    """Group the parts by module, in the order of a forward pass; parts of weight 0 change nothing."""
    changed: dict[Target, list[tuple[LoraPair, float]]] = {}
    for part in parts:
        for target, pair in part.adapter.pairs.items():
            if part.weight:
                changed.setdefault(target, []).append((pair, part.weight))
    return dict(sorted(changed.items(), key=lambda item: (item[0].depth, _PLACE[item[0].module])))


def weight_name(target: Target) -> str:
    """Return the Hugging Face name of the matrix a module's pair changes."""
    return f"{target.hf_path}.weight"


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a matrix, in Hugging Face order."""

    start: int
    before: NDArray[np.float32]
    after: Wide
    """The row as it would be without rounding."""


def merged_blocks(weights: BaseWeights, target: Target, acting: Sequence[tuple[LoraPair, float]]) -> Iterator[Block]:
    """Yield the rows of a module's matrix from first to last, in blocks of whole rotary heads."""
    name = weight_name(target)
    rows, width = weights.shape(name)
    step = _step(target, weights.llama, rows=rows, width=width)
    for start in range(0, rows, step):
        before = weights.rows(name, start, min(start + step, rows))
        yield Block(start, before, merged_rows(before.astype(np.float64), target, acting, start))


def merged_rows(before: Wide, target: Target, acting: Sequence[tuple[LoraPair, float]], start: int) -> Wide:
    """Return the merged rows; `before` are the rows from `start` on."""
    after = before.copy()
    for pair, weight in acting:
        rows = slice(start, start + len(before))
        delta = _delta(pair, target, rows)
        if pair.magnitude is not None:
            moved = before + delta
            delta = moved * _row_scales(pair.magnitude[rows], moved) - before
        after += weight * delta
    return after


def _row_scales(magnitude: NDArray[np.float32], moved: Wide) -> Wide:
    """g, [rows, 1]. A row of zeros has no direction to scale: it becomes NaN, which no writer takes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scales: Wide = magnitude.astype(np.float64)[:, None] / np.linalg.norm(moved, axis=1, keepdims=True)
    return scales


def _delta(pair: LoraPair, target: Target, rows: slice) -> Wide:
    """Return the rows of scale * B @ A; of the embedding, whose rows are tokens, of its transpose."""
    left, right = (pair.a.T, pair.b.T) if target.module == EMBEDDING else (pair.b, pair.a)
    delta: Wide = (left[rows].astype(np.float64) * pair.scale) @ right.astype(np.float64)
    return delta


def _step(target: Target, shape: LlamaShape, *, rows: int, width: int) -> int:
    heads = target.module.rotary_heads(shape)
    unit = 1 if heads is None else rows // heads
    return max(1, BLOCK_BYTES // (4 * width * unit)) * unit


@dataclass(slots=True)
class ErrorTally:
    """The errors of a matrix's rows, summed up block by block."""

    _wanted: float = field(default=0.0)
    _change: float = field(default=0.0)
    _off: float = field(default=0.0)
    _along: float = field(default=0.0)

    def add(self, block: Block, stored: NDArray[np.float32]) -> None:
        """Add rows to the sums; `stored` are the same rows as the merged file holds them."""
        change, made = block.after - block.before, stored.astype(np.float64) - block.before
        self._wanted += _square(block.after)
        self._change += _square(change)
        self._off += _square(made - change)
        self._along += float(np.vdot(made, change))

    def __iadd__(self, other: ErrorTally) -> ErrorTally:
        self._wanted += other._wanted
        self._change += other._change
        self._off += other._off
        self._along += other._along
        return self

    @property
    def error(self) -> float:
        """||stored - wanted|| / ||wanted||: what rounding to the stored type costs (Frobenius)."""
        return _ratio(math.sqrt(self._off), math.sqrt(self._wanted))

    @property
    def noise(self) -> float:
        """||stored - wanted|| / ||wanted - before||: the same, beside the change the adapters make."""
        return _ratio(math.sqrt(self._off), math.sqrt(self._change))

    @property
    def kept(self) -> float:
        """Return the share of the change that survived, along its own direction: 1.0 is all of it, 0.0 nothing."""
        return _ratio(self._along, self._change) if self._change else 1.0


def _square(values: Wide) -> float:
    return float(np.vdot(values, values))


def _ratio(part: float, total: float) -> float:
    return part / total if total else 0.0
