"""The three types a factor is stored in: which is the narrowest that is exact, and there and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["F16", "BF16", "F32"]
NARROW: tuple[Kind, ...] = ("F16", "BF16")
DTYPES: Mapping[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""numpy has no bfloat16: it is kept as the uint16 of its bits."""

# Most float32 factors show within so many values that nothing narrower holds them.
_FEW = 1024


def kind_of(values: NDArray[np.float32]) -> Kind:
    """The narrowest type that holds every one of `values` exactly."""
    few = values.reshape(-1)[:_FEW]
    for kind in NARROW:
        if holds(few, kind) and holds(values, kind):
            return kind
    return "F32"


def stored(values: NDArray[np.float32], kind: Kind) -> NDArray[Any]:
    """`values` in a type that holds them."""
    if kind == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    return (values.view(np.uint32) >> 16).astype(np.uint16) if kind == "BF16" else values


def widened(values: NDArray[Any]) -> NDArray[np.float32]:
    """float32, exactly; uint16 is taken as the bits of bfloat16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Bit for bit: -0.0 is not 0.0."""
    return np.array_equal(np.ascontiguousarray(one).view(np.uint32), np.ascontiguousarray(other).view(np.uint32))


def holds(values: NDArray[np.float32], kind: Kind) -> bool:
    """Whether every one of `values` is exact in `kind`."""
    if kind == "BF16":
        return not (values.view(np.uint32) & 0xFFFF).any()
    return same_bits(widened(stored(values, kind)), values)
