"""The graph's products `y = W x`, and its lookup of the tokens' rows, as arrays: read from a node once, and again only
when the node has changed.

A decode step repeats the graph of the step before, at the same addresses. Comparing a node's bytes with those it was
read from costs a tenth of reading its fields one by one, and there are hundreds of nodes in every step.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.llama_cpp.ggml_tensor import (
    OP_GET_ROWS,
    OP_MUL_MAT,
    GgmlTensor,
    rows_of,
    tensor_at,
    tensor_name,
    tokens_of,
)
from edgelora.core.errors import BackendError

_SIZE = ctypes.sizeof(GgmlTensor)


@dataclass(frozen=True, slots=True, eq=False)
class LinearNode:
    """One node, and the bytes of its struct and of its input's when it was read."""

    name: str
    key: int
    """`weight_key` of W's tensor."""
    y: NDArray[np.float32]
    """Output [rows, out], the node's own memory."""
    x: NDArray[Any]
    """Input [rows, in] float32; for a lookup the tokens, int32 [rows]."""
    node_bytes: bytes
    input: int
    input_bytes: bytes


def weight_key(address: int, *, lookup: bool) -> int:
    """The key of a module's weight: its tensor's address, which is even; one more where its rows are looked up,
    for a tied base multiplies with the same tensor."""
    return address + lookup


class LinearNodes:
    """Remembers one product per node address; the graph has a bounded number of them."""

    def __init__(self) -> None:
        self._known: dict[int, LinearNode] = {}

    def at(self, node: int) -> LinearNode:
        """Return the product at this address, which must be a computed node. Raises BackendError where it is none.

        Its arrays are valid until the graph goes on.
        """
        cached = self._known.get(node)
        if (
            cached is None
            or ctypes.string_at(node, _SIZE) != cached.node_bytes
            or ctypes.string_at(cached.input, _SIZE) != cached.input_bytes
        ):
            cached = self._known[node] = _read(node)
        return cached


def _read(node: int) -> LinearNode:
    tensor = tensor_at(node)
    weight, source = tensor.src[0], tensor.src[1]
    lookup = tensor.op == OP_GET_ROWS
    if not (lookup or tensor.op == OP_MUL_MAT) or not weight or not source:
        raise BackendError("graph_layout", f"Node {tensor_name(tensor)!r} is no product with its weight.")
    return LinearNode(
        name=tensor_name(tensor),
        key=weight_key(weight, lookup=lookup),
        y=rows_of(tensor),
        x=tokens_of(tensor_at(source)) if lookup else rows_of(tensor_at(source)),
        node_bytes=ctypes.string_at(node, _SIZE),
        input=source,
        input_bytes=ctypes.string_at(source, _SIZE),
    )
