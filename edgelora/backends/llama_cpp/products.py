"""The graph's products `y = W x` as arrays: read from a node once, and again only when the node has changed.

A decode step repeats the graph of the step before, at the same addresses. Comparing a node's bytes with those it was
read from costs a tenth of reading its fields one by one, and there are hundreds of nodes in every step.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.llama_cpp.layout import OP_MUL_MAT, GgmlTensor, rows_of, tensor_at, tensor_name
from edgelora.errors import BackendError

_SIZE = ctypes.sizeof(GgmlTensor)


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """One node, and the bytes of its struct and of its input's when it was read."""

    name: str
    weight: int
    """Address of W's tensor."""
    y: NDArray[np.float32]
    """[rows, out], the node's own memory."""
    x: NDArray[np.float32]
    """[rows, in], its input's."""
    node_bytes: bytes
    input: int
    input_bytes: bytes


class Products:
    """Remembers one product per node address; the graph has a bounded number of them."""

    def __init__(self) -> None:
        self._known: dict[int, Product] = {}

    def at(self, node: int) -> Product:
        """The product at this address, which must be a computed node. Raises BackendError where it is none.

        Its arrays are valid until the graph goes on.
        """
        known = self._known.get(node)
        if (
            known is None
            or ctypes.string_at(node, _SIZE) != known.node_bytes
            or ctypes.string_at(known.input, _SIZE) != known.input_bytes
        ):
            known = self._known[node] = _read(node)
        return known


def _read(node: int) -> Product:
    tensor = tensor_at(node)
    weight, source = tensor.src[0], tensor.src[1]
    if tensor.op != OP_MUL_MAT or not weight or not source:
        raise BackendError("graph_layout", f"Node {tensor_name(tensor)!r} is no product with its weight.")
    return Product(
        name=tensor_name(tensor),
        weight=weight,
        y=rows_of(tensor),
        x=rows_of(tensor_at(source)),
        node_bytes=ctypes.string_at(node, _SIZE),
        input=source,
        input_bytes=ctypes.string_at(source, _SIZE),
    )
