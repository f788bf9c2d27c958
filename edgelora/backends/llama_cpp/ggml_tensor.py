"""`struct ggml_tensor` as the llama.cpp in llama-cpp-python 0.3.36 lays it out, and safe views of its rows.

The evaluation callback receives a bare pointer. Everything read through it goes through this file; `graph_selftest.py`
checks at start-up that the installed library really has this layout. Source: ggml.h, struct ggml_tensor.
"""

from __future__ import annotations

import ctypes
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.kernels.native import BatchLayout
from edgelora.core.errors import BackendError

MAX_DIMS: Final = 4
MAX_SOURCES: Final = 10
MAX_NAME: Final = 64
TYPE_F32: Final = 0
TYPE_I32: Final = 26
# Positions in enum ggml_op.
OP_ADD: Final = 2
OP_MUL_MAT: Final = 29
OP_GET_ROWS: Final = 40


class GgmlTensor(ctypes.Structure):
    """One node or leaf of the graph. `ne` are elements, innermost first; `nb` are strides in bytes."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * MAX_DIMS),
        ("nb", ctypes.c_size_t * MAX_DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * MAX_SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * MAX_NAME),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


FIRST_SOURCE: Final[int] = GgmlTensor.src.offset
"""Byte offset of src[0]; for a MUL_MAT that is the weight."""


def native_layout() -> BatchLayout:
    """Return the same offsets for the native kernel: this file stays the one that knows them."""
    fields = {name: getattr(GgmlTensor, name).offset for name in ("type", "ne", "nb", "op", "src", "data", "name")}
    return BatchLayout(
        **fields,
        type_f32=TYPE_F32,
        type_i32=TYPE_I32,
        op_mul_mat=OP_MUL_MAT,
        op_get_rows=OP_GET_ROWS,
        name_size=MAX_NAME,
    )


def tensor_at(address: int) -> GgmlTensor:
    return GgmlTensor.from_address(address)


def tensor_name(tensor: GgmlTensor) -> str:
    return bytes(tensor.name).decode("utf-8", "replace")


def tokens_of(tensor: GgmlTensor) -> NDArray[np.int32]:
    """Return the tensor's memory as int32 [rows], not copied: which rows are looked up.

    Raises BackendError where it is anything else: then its memory must not be touched.
    """
    rows, *outer = tensor.ne
    if tensor.type != TYPE_I32 or outer != [1, 1, 1] or tensor.nb[0] != 4 or rows < 0 or not tensor.data:
        raise _odd(tensor, "list of tokens")
    return np.ndarray((rows,), np.int32, (ctypes.c_char * (4 * rows)).from_address(tensor.data))


def rows_of(tensor: GgmlTensor) -> NDArray[np.float32]:
    """Return the tensor's memory as [rows, width] float32, writable, not copied.

    Raises BackendError where it is anything else: then its memory must not be touched.
    """
    width, rows, *outer = tensor.ne
    element, stride, *_ = tensor.nb
    plain = tensor.type == TYPE_F32 and outer == [1, 1] and width > 0 and rows >= 0 and bool(tensor.data)
    if not plain or element != 4 or stride % 4 or stride < 4 * width:
        raise _odd(tensor, "float32 matrix")
    memory = (ctypes.c_char * (rows * stride)).from_address(tensor.data)
    return np.ndarray((rows, width), np.float32, memory, strides=(stride, 4))


def _odd(tensor: GgmlTensor, wanted: str) -> BackendError:
    return BackendError(
        "graph_layout",
        f"Node {tensor_name(tensor)!r} is no plain {wanted} (type {tensor.type}, ne {list(tensor.ne)},"
        f" nb {list(tensor.nb)}).",
        "Start with llama.cpp's own LoRA instead, and report this.",
    )
