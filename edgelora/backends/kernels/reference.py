"""The LoRA delta in numpy: what every faster kernel must agree with. Pure; owns no memory."""

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
    """[rank, in]; where tokens look up their rows in it [vocab, rank]"""
    b: NDArray[Any]
    """[rank, out]: transposed, so that the second product streams through memory."""
    scale: NDArray[np.float32] | None = None
    """[out]: DoRA's factor of the whole output, the delta included."""
    bias: NDArray[np.float32] | None = None
    """[out]: added after the scale; the adapter's own scale is in it."""
    multiplier: float = 1.0
    """The adapter's own scale, alpha / rank and so on: a float32's value. 1.0 where b holds it."""
    lookup: bool = False
    """The embedding's: a row of the step is a token, and its products are the token's row of a."""

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
    """[stop - start]: how much of the change each row gets, times `weight`."""


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
