"""The LoRA delta in numpy, the reference for every faster kernel. Pure; owns no memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.tensors.dtypes import widened


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """One module's delta: multiplier * b.T @ a. a and b are C-contiguous float32, float16, or bfloat16 as the
    uint16 of its bits; everything is computed in float32."""

    a: NDArray[Any]
    """Array [rank, in]; [vocab, rank] if `lookup`."""
    b: NDArray[Any]
    """Array [rank, out], transposed so that the second product streams through memory."""
    scale: NDArray[np.float32] | None = None
    """DoRA's factor [out] of the whole output, the delta included."""
    bias: NDArray[np.float32] | None = None
    """Bias [out], added after the scale; the adapter's own scale is included."""
    multiplier: float = 1.0
    """The adapter's own scale, such as alpha / rank, as a float32 value; 1.0 if b includes it."""
    lookup: bool = False
    """True for the embedding: each row of the step is a token, and its product is the token's row of a."""

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (self.a, self.b, self.scale, self.bias) if array is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The rows `start` to `stop` (exclusive) of a step that belong to one adapter."""

    start: int
    stop: int
    factors: Factors
    weight: float = 1.0
    gate: NDArray[np.float32] | None = None
    """Factor [stop - start] of each row's change, times `weight`."""


def add_delta(y: NDArray[np.float32], x: NDArray[Any], groups: Iterable[Group]) -> None:
    """y[rows] += multiplier * (x[rows] @ a.T) @ b for each group in turn, in place and in float32; groups may overlap.

    With a scale or a bias a row becomes scale * (y + delta) + bias; weight and gate take that share of the change. A
    change is of y as it is given: of what several groups make of a row, none depends on another.
    y is [rows, out], x is [rows, in], or int32 [rows] where the factors look up; rows of no group are not touched, not
    even written back.
    """
    groups = list(groups)
    base = y.copy() if any(group.factors.scale is not None for group in groups) else y
    for group in groups:
        rows, factors = slice(group.start, group.stop), group.factors
        # Of the products, which are few, and not of a or b: those may be 16 bits wide and stay what they are.
        products = widened(factors.a[x[rows]]) if factors.lookup else x[rows] @ widened(factors.a).T
        change = (products * np.float32(factors.multiplier)) @ widened(factors.b)
        if factors.scale is not None:
            change = factors.scale * (base[rows] + change) - base[rows]
        if factors.bias is not None:
            change += factors.bias
        if group.gate is not None:
            change *= group.gate[:, None]
        y[rows] += change if group.weight == 1.0 else np.float32(group.weight) * change
