"""The native kernel: the library that the package build compiled of the C here, loaded once; None where there is none.

Owns the mirror of lora.h's structs, and the same `add_delta` as the numpy reference. The evaluation callback in the
same library is `evaluator`.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.kernels.reference import Factors, Group

log = logging.getLogger(__name__)

ABI: Final = 3
SUFFIX: Final = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
PATH: Final = Path(__file__).with_name(f"_lora{SUFFIX}")
INSTRUCTION_SETS: Final = {"scalar": 0, "avx2": 1, "avx512": 2, "neon": 3}
"""Instruction sets by their number in lora.h, slowest first."""
_TYPES: Final = {"float32": 0, "float16": 1, "uint16": 2}

CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)


class Pair(ctypes.Structure):
    _fields_ = (
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("out", ctypes.c_int64),
        ("a_type", ctypes.c_int32),
        ("b_type", ctypes.c_int32),
        ("multiplier", ctypes.c_float),
        ("lookup", ctypes.c_int32),
    )


class NativeGroup(ctypes.Structure):
    _fields_ = (
        ("pair", ctypes.POINTER(Pair)),
        ("gate", ctypes.c_void_p),
        ("products", ctypes.c_void_p),
        ("start", ctypes.c_int64),
        ("stop", ctypes.c_int64),
        ("weight", ctypes.c_float),
    )


class NativeShare(ctypes.Structure):
    _fields_ = (
        ("pairs", ctypes.c_void_p),
        ("gate", ctypes.c_void_p),
        ("output_gate", ctypes.c_void_p),
        ("rows", ctypes.c_int64 * 2),
        ("outputs", ctypes.c_int64 * 2),
        ("weight", ctypes.c_float),
    )


class BatchLayout(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("type", "ne", "nb", "op", "src", "data", "name"),
            *("type_f32", "type_i32", "op_mul_mat", "op_get_rows", "name_size"),
        )
    )


class Outcome(ctypes.Structure):
    _fields_ = (
        ("error", ctypes.c_int32),
        ("expected", ctypes.c_int32),
        ("visited", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("node", ctypes.c_char * 64),
    )


_SIZES: Final = tuple(ctypes.sizeof(kind) for kind in (Pair, NativeGroup, NativeShare, BatchLayout, Outcome))


@cache
def library() -> ctypes.CDLL | None:
    """Return the library with its functions declared; None, with a log line, if it is missing or from another build."""
    try:
        lib = ctypes.CDLL(str(PATH))
        abi = int(lib.lora_abi())
    except (OSError, AttributeError) as error:
        log.info("No native kernel, numpy is used: %s", error)
        return None
    sizes = (ctypes.c_int64 * len(_SIZES))()
    if abi == ABI:
        lib.lora_sizes(sizes)
    if abi != ABI or tuple(sizes) != _SIZES:
        log.warning("The native kernel at %s is of another build (%d, not %d); numpy is used.", PATH, abi, ABI)
        return None
    _declare(lib)
    return lib


def _declare(lib: ctypes.CDLL) -> None:
    pointer, i32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    lib.lora_has.restype = lib.lora_threaded.restype = ctypes.c_bool
    lib.lora_add.argtypes = (pointer, i64, pointer, i64, pointer, i32, i32, i32)
    lib.lora_open.argtypes, lib.lora_open.restype = (CALLBACK,), pointer
    lib.lora_free.argtypes, lib.lora_free.restype = (pointer,), None
    lib.lora_modules.argtypes = (pointer, pointer, pointer, i32, i32, i32, i32)
    lib.lora_set_mode.argtypes, lib.lora_set_mode.restype = (pointer, i32), None
    lib.lora_begin.argtypes = (pointer, pointer, i32, i64, i64)
    lib.lora_evaluate.argtypes, lib.lora_evaluate.restype = (pointer, ctypes.c_bool, pointer), ctypes.c_bool
    lib.lora_end.argtypes, lib.lora_end.restype = (pointer, pointer), None


def instruction_sets() -> list[str]:
    """Return the instruction sets this machine can run, slowest first; none without the library."""
    lib = library()
    return [] if lib is None else [name for name, number in INSTRUCTION_SETS.items() if lib.lora_has(number)]


def describe() -> str:
    """Return a short description for `edgelora doctor`."""
    lib = library()
    if lib is None:
        return "numpy (the native kernel was not built)"
    return f"native, {instruction_sets()[-1]}, {'OpenMP' if lib.lora_threaded() else 'one thread'}"


def pair_of(factors: Factors) -> Pair:
    """Return the native form of `factors`. It borrows their memory, so `factors` must outlive it."""
    (rank, width), out = factors.a.shape[:: -1 if factors.lookup else 1], factors.b.shape[1]
    if factors.b.shape[0] != rank or not (factors.a.flags.c_contiguous and factors.b.flags.c_contiguous):
        raise ValueError("factors must be C-contiguous and of one rank")
    return Pair(
        a=factors.a.ctypes.data,
        b=factors.b.ctypes.data,
        scale=_address(factors.scale, out),
        bias=_address(factors.bias, out),
        rank=rank,
        width=width,
        out=out,
        a_type=_TYPES[factors.a.dtype.name],
        b_type=_TYPES[factors.b.dtype.name],
        multiplier=factors.multiplier,
        lookup=factors.lookup,
    )


def add_delta(
    y: NDArray[np.float32], x: NDArray[Any], groups: Iterable[Group], *, isa: str | None = None, threads: int = 1
) -> None:
    """Do what `reference.add_delta` does, up to rounding. `isa`: one of `instruction_sets()`, by default the fastest.

    Raises RuntimeError without the library, ValueError for arrays that do not fit together, MemoryError.
    """
    lib = library()
    if lib is None:
        raise RuntimeError("the native kernel was not built")
    natives = _groups(y, x, list(groups))
    number = INSTRUCTION_SETS[isa or instruction_sets()[-1]]
    x_stride = 1 if x.ndim == 1 else _stride(x)
    if lib.lora_add(y.ctypes.data, _stride(y), x.ctypes.data, x_stride, natives, len(natives), number, threads):
        raise MemoryError


def _groups(y: NDArray[np.float32], x: NDArray[Any], groups: Sequence[Group]) -> ctypes.Array[NativeGroup]:
    natives = (NativeGroup * len(groups))()
    for native, group in zip(natives, groups, strict=True):
        pair, rows = pair_of(group.factors), group.stop - group.start
        if not _fits(y, x, pair) or not 0 <= group.start <= group.stop <= len(y):
            raise ValueError("the group does not fit its rows")
        native.pair = ctypes.pointer(pair)
        native.gate = _address(group.gate, rows)
        native.start, native.stop, native.weight = group.start, group.stop, group.weight
    return natives


def _fits(y: NDArray[np.float32], x: NDArray[Any], pair: Pair) -> bool:
    if len(x) != len(y) or y.shape[1] != pair.out:
        return False
    if not pair.lookup:
        return x.ndim == 2 and bool(x.shape[1] == pair.width)
    plain = x.ndim == 1 and x.dtype == np.int32 and x.flags.c_contiguous
    return plain and bool(((x >= 0) & (x < pair.width)).all())


def _stride(rows: NDArray[np.float32]) -> int:
    if rows.dtype != np.float32 or rows.strides[1] != 4:
        raise ValueError("rows must be float32 with their values side by side")
    return rows.strides[0] // 4


def _address(values: NDArray[np.float32] | None, size: int) -> int | None:
    if values is None:
        return None
    if values.shape != (size,) or values.dtype != np.float32 or not values.flags.c_contiguous:
        raise ValueError(f"{size} contiguous float32 values are needed")
    return values.ctypes.data
