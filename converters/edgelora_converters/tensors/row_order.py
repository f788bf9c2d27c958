"""The row orders of q and k: Hugging Face keeps the two halves of a rotary head apart, llama.cpp interleaves them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def interleave(rows: NDArray[Any], heads: int | None) -> NDArray[Any]:
    """Hugging Face row order to GGUF's: [out, n] to [out, n]. `heads` None (no rotary module) changes nothing."""
    if heads is None:
        return rows
    out, width = rows.shape
    return np.ascontiguousarray(rows.reshape(heads, 2, out // heads // 2, width).swapaxes(1, 2).reshape(out, width))


def deinterleave(rows: NDArray[Any], heads: int | None) -> NDArray[Any]:
    """GGUF row order to Hugging Face's: the inverse of `interleave`."""
    if heads is None:
        return rows
    out, width = rows.shape
    return np.ascontiguousarray(rows.reshape(heads, out // heads // 2, 2, width).swapaxes(1, 2).reshape(out, width))
