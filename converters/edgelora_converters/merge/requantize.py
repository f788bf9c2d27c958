"""float32 rows back into the type a base stores them in. Owns the choice of who rounds; no file and no names.

The trained types are rounded here, the older quantized ones by the gguf package, and the K-quants, for which that has
no quantizer, by ggml's own, row by row and without an importance matrix: what `llama-quantize` would write.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
"""[rows, width], finite, contiguous."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
GGUF_PACKAGE = frozenset({"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"})
GGML = frozenset({"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"})
"""Types that ggml quantizes well without an importance matrix."""
_ROWS = 64
"""Rows that a thread takes at a time: milliseconds of work."""
WRITABLE = FLOATS | GGUF_PACKAGE | GGML


def requantised(rows: Rows, kind: str) -> NDArray[Any]:
    """Quantize `rows` to `kind`, one of WRITABLE: an array whose bytes are the file's. Values beyond F16's range become
    infinite, which is for the caller to find."""
    if kind in FLOATS:
        return _ROUNDED[kind](rows)
    return _by_gguf_package(rows, kind) if kind in GGUF_PACKAGE else _by_ggml(rows, kind)


def _half(rows: Rows) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return rows.astype("<f2")


def _brain(rows: Rows) -> NDArray[Any]:
    """To the nearest bfloat16, ties to even."""
    bits = rows.view(np.uint32)
    rounded: NDArray[Any] = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return rounded.astype("<u2")


_ROUNDED: Mapping[str, Callable[[Rows], NDArray[Any]]] = {
    "F64": lambda rows: rows.astype("<f8"),
    "F32": lambda rows: rows.astype("<f4", copy=False),
    "F16": _half,
    "BF16": _brain,
}


def _by_gguf_package(rows: Rows, kind: str) -> NDArray[Any]:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    packed: NDArray[Any] = quantize(rows, GGMLQuantizationType[kind])
    return packed


def _by_ggml(rows: Rows, kind: str) -> NDArray[Any]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    count, width = rows.shape
    packed = np.empty((count, width // block * nbytes), np.uint8)
    quantize, number = _quantize_chunk(), GGMLQuantizationType[kind].value
    addresses = rows.ctypes.data, packed.ctypes.data

    def some(first: int) -> None:
        quantize(number, *addresses, first * width, min(_ROWS, count - first), width, None)

    # Every row is quantized by itself, so threads give the same bytes; each call lets the others run.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(some, range(0, count, _ROWS)))
    return packed


def _quantize_chunk() -> Callable[..., int]:
    """ggml.h: size_t ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix); it releases the GIL."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    # libllama depends on the library that has it, so the system's loader finds it through libllama.
    function: Any = llama_cpp.llama_cpp._lib.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return function  # type: ignore[no-any-return]
