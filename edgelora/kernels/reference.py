"""The LoRA delta in numpy: what every faster kernel must agree with. Pure; owns no memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """One module's delta, the whole scale folded into b. Both float32, C-contiguous."""

    a: NDArray[np.float32]
    """[rank, in]"""
    b: NDArray[np.float32]
    """[rank, out]: transposed, so that the second product streams through memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The rows `start` to `stop` (exclusive) of a step that belong to one adapter."""

    start: int
    stop: int
    factors: Factors


def add_delta(y: NDArray[np.float32], x: NDArray[np.float32], groups: Iterable[Group]) -> None:
    """y[rows] += (x[rows] @ a.T) @ b for each group, in place and in float32.

    y is [rows, out], x is [rows, in]; rows of no group are not touched, not even written back.
    """
    for group in groups:
        rows = slice(group.start, group.stop)
        y[rows] += (x[rows] @ group.factors.a.T) @ group.factors.b
