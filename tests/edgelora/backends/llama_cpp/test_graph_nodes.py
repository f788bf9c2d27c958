"""Products read from graph nodes: remembered while the node stays the same, read again when anything in it changes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora.backends.llama_cpp import ggml_tensor
from edgelora.backends.llama_cpp.ggml_tensor import OP_ADD, OP_GET_ROWS, OP_MUL_MAT, TYPE_I32, GgmlTensor
from edgelora.backends.llama_cpp.graph_nodes import LinearNodes, weight_key
from edgelora.core.errors import BackendError


@dataclass
class Node:
    """A made-up `y = W x` in our own memory, kept alive with its tensors."""

    tensor: GgmlTensor
    weight: GgmlTensor
    input: GgmlTensor

    @property
    def address(self) -> int:
        return ctypes.addressof(self.tensor)


def matrix(memory: NDArray[np.float32]) -> GgmlTensor:
    tensor = GgmlTensor()
    rows, width = memory.shape
    tensor.ne[:], tensor.nb[:] = (width, rows, 1, 1), (4, 4 * width, 4 * width * rows, 4 * width * rows)
    tensor.data = memory.ctypes.data
    return tensor


def product(y: NDArray[np.float32], x: NDArray[np.float32]) -> Node:
    node = Node(matrix(y), GgmlTensor(), matrix(x))
    node.tensor.op = OP_MUL_MAT
    node.tensor.name = b"Qcur-0"
    node.tensor.src[0], node.tensor.src[1] = ctypes.addressof(node.weight), ctypes.addressof(node.input)
    return node


def test_its_arrays_are_the_nodes_memory() -> None:
    """y and x are views: what is written to y is in the graph."""
    y, x = np.zeros((2, 3), np.float32), np.arange(8, dtype=np.float32).reshape(2, 4)
    node = product(y, x)
    read = LinearNodes().at(node.address)
    read.y[1] = 7
    assert y.tolist() == [[0, 0, 0], [7, 7, 7]] and np.array_equal(read.x, x)
    assert read.key == weight_key(ctypes.addressof(node.weight), lookup=False)


def test_a_lookup_has_tokens_for_an_input() -> None:
    """And a key of its own, so that a tied base's head, which multiplies with the same weight, is another module."""
    y, tokens = np.zeros((2, 3), np.float32), np.array([7, 250], np.int32)
    node = product(y, np.zeros((1, 1), np.float32))
    node.tensor.op, node.input.type = OP_GET_ROWS, TYPE_I32
    node.input.ne[:], node.input.nb[:] = (2, 1, 1, 1), (4, 8, 8, 8)
    node.input.data = tokens.ctypes.data
    read = LinearNodes().at(node.address)
    assert read.x.tolist() == [7, 250] and read.x.dtype == np.int32 and read.y.shape == (2, 3)
    assert read.key == ctypes.addressof(node.weight) + 1
    node.input.type = ggml_tensor.TYPE_F32
    with pytest.raises(BackendError):
        LinearNodes().at(node.address)


def test_the_same_node_is_read_once() -> None:
    """The next step finds what this one read."""
    node = product(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))
    products = LinearNodes()
    assert products.at(node.address) is products.at(node.address)


def test_a_changed_node_is_read_again() -> None:
    """Memory that moved, of the node or of its input, and another number of rows are never read as before."""
    node = product(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))
    products = LinearNodes()
    products.at(node.address)
    moved, moved_input = np.ones((2, 3), np.float32), np.full((2, 4), 5, np.float32)
    node.tensor.data = moved.ctypes.data
    assert products.at(node.address).y.tolist() == moved.tolist()
    node.input.data = moved_input.ctypes.data
    assert products.at(node.address).x.tolist() == moved_input.tolist()
    node.tensor.ne[1] = node.input.ne[1] = 1
    assert products.at(node.address).y.shape == (1, 3) and products.at(node.address).x.shape == (1, 4)


def test_no_rows_are_no_error() -> None:
    """Where no chunk wants logits, the last layer's tail has no rows."""
    node = product(np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32))
    node.tensor.data = node.input.data = 64
    assert LinearNodes().at(node.address).y.shape == (0, 3)


def test_what_is_no_product_is_refused() -> None:
    """Another operation on a weight, or one without an input, must not be taken for a linear module."""
    node = product(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))
    node.tensor.op = OP_ADD
    with pytest.raises(BackendError, match="'Qcur-0' is no product"):
        LinearNodes().at(node.address)
    node.tensor.op, node.tensor.src[1] = OP_MUL_MAT, None
    with pytest.raises(BackendError, match="'Qcur-0' is no product"):
        LinearNodes().at(node.address)
