"""The types a factor is stored in. Pure.

Three that are written: which is the narrowest that is exact, and there and back. FP8 and float64 are only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
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
    """Return the narrowest type that holds every one of `values` exactly."""
    few = values.reshape(-1)[:_FEW]
    for kind in NARROW:
        if holds(few, kind) and holds(values, kind):
            return kind
    return "F32"


def stored(values: NDArray[np.float32], kind: Kind) -> NDArray[Any]:
    """Return `values` in a type that holds them."""
    if kind == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    return (values.view(np.uint32) >> 16).astype(np.uint16) if kind == "BF16" else values


def widened(values: NDArray[Any]) -> NDArray[np.float32]:
    """float32, exactly; uint16 is taken as the bits of bfloat16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def widened_from(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """Little-endian bytes of a safetensors dtype as float32, flat. Exact but for F64, see `rounded`.

    F8_E4M3 is the `fn` kind, which has no infinity (arXiv 2209.05433); codes that are no number give NaN or infinity.
    KeyError for another dtype.
    """
    if dtype == "F64":
        return rounded(raw.view("<f8"))
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return _fp8(dtype)[raw]
    return widened(raw.view(DTYPES[dtype]))


def rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the nearest float32 of each value, ties to even: one rounding, of at most 2**-24 of a value in float32's
    normal range and 2**-150 below it. What lies above the range becomes infinity."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float32)


def same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Bit for bit: -0.0 is not 0.0."""
    return np.array_equal(np.ascontiguousarray(one).view(np.uint32), np.ascontiguousarray(other).view(np.uint32))


@cache
def _fp8(dtype: str) -> NDArray[np.float32]:
    """Return the 256 values of an 8-bit type."""
    codes = np.arange(256, dtype=np.uint16)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (codes << 8).view(np.float16).astype(np.float32)
    exponent, mantissa = (codes >> 3 & 15).astype(np.int32), (codes & 7).astype(np.float32)
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    values = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal) * np.where(codes >> 7, -1, 1)
    values[codes & 127 == 127] = np.nan
    return values.astype(np.float32)


def holds(values: NDArray[np.float32], kind: Kind) -> bool:
    """Return whether every one of `values` is exact in `kind`."""
    if kind == "BF16":
        return not (values.view(np.uint32) & 0xFFFF).any()
    return same_bits(widened(stored(values, kind)), values)
