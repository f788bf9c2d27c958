"""LoRA by evaluation callback: the base runs alone, and each token's own delta is added where the graph multiplies.

llama.cpp asks for every node whether to stop after it, computes up to a node answered yes, and hands it over; its rows
may then be read and changed before the graph goes on. A node `y = W x` of a targeted module is known by the address of
its weight tensor, which stays the same as long as the base is loaded. So is the lookup of the tokens' rows, the
embedding's; a tied base multiplies with the same tensor.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Loaded
from edgelora.backends.kernels.reference import Factors, Group, add_delta
from edgelora.backends.llama_cpp.adapter import LoadedLora, load_lora
from edgelora.backends.llama_cpp.eval_callback import EvalCallback
from edgelora.backends.llama_cpp.ggml_tensor import FIRST_SOURCE
from edgelora.backends.llama_cpp.graph_nodes import LinearNode, LinearNodes, weight_key
from edgelora.backends.llama_cpp.lora_method import StepShares
from edgelora.core.errors import BackendError
from edgelora.core.request import AdapterFormat
from edgelora_converters.lora.adapter import Target
from edgelora_converters.tensors.blas_threads import one_blas_thread
from edgelora_models.modules import EMBEDDING
from edgelora_models.shape import LlamaShape

Kernel = Callable[[NDArray[np.float32], NDArray[Any], Iterable[Group]], None]


class PythonHookMethod:
    """Owns the attached adapters' factors, by slot and weight address, and the shares of the step being computed."""

    kv_name = "HookMethod"
    mixed_adapters = True
    adapter_format: AdapterFormat = "mapped"
    widens_adapters = True

    def __init__(
        self,
        eval_callback: EvalCallback,
        shape: LlamaShape,
        weights: Mapping[Target, int],
        *,
        kernel: Kernel = add_delta,
    ) -> None:
        """`weights`: the address of every module's weight tensor, as the self-test found them."""
        self._eval_callback = eval_callback
        self._shape = shape
        self._keys = {t: weight_key(address, lookup=t.module == EMBEDDING) for t, address in weights.items()}
        self._kernel = kernel
        self._products = LinearNodes()
        self._slots: dict[int, dict[int, Factors]] = {}
        self._step = StepShares((), 0, 0)
        self._watched: frozenset[int] = frozenset()
        """Addresses of the weights that the step's adapters change."""
        self._changed: frozenset[int] = frozenset()
        """Keys of the modules that the step's adapters change."""
        self._pending: set[int] = set()

    def load(self, path: Path) -> LoadedLora:
        return load_lora(path, self._shape, widen=True)

    def attach(self, slot: int, loaded: Loaded) -> None:
        if not isinstance(loaded, LoadedLora):
            raise BackendError(
                "foreign_adapter", f"Slot {slot} was given {type(loaded).__name__}, not a llama.cpp adapter."
            )
        self._slots[slot] = {self._keys[target]: pair for target, pair in loaded.factors.items()}

    def detach(self, slot: int) -> None:
        self._slots.pop(slot, None)

    def run(self, step: StepShares, decode: Callable[[], int]) -> int:
        self._step = step
        self._changed = frozenset().union(*(self._slots[share.slot] for share in step.shares))
        if not self._changed:
            return decode()
        self._watched = frozenset(key & ~1 for key in self._changed)
        self._pending = set(self._changed)
        with one_blas_thread():
            code = self._eval_callback.watch(self, decode)
        if code == 0 and self._pending:
            missed, targeted = len(self._pending), len(self._changed)
            raise BackendError(
                "graph_incomplete", f"The graph passed by {missed} of the {targeted} modules the adapters change."
            )
        return code

    def wants(self, node: int) -> bool:
        return ctypes.c_void_p.from_address(node + FIRST_SOURCE).value in self._watched

    def visit(self, node: int) -> None:
        product = self._products.at(node)
        if product.key not in self._changed:
            return  # the other use of a tied base's weight
        if product.key not in self._pending:
            raise BackendError("graph_layout", f"Node {product.name!r} uses its weight a second time in one step.")
        self._pending.remove(product.key)
        self._kernel(product.y, product.x, self._groups(product))

    def _groups(self, product: LinearNode) -> Iterator[Group]:
        rows, step = len(product.y), self._step
        if rows not in (step.rows, step.outputs):
            raise BackendError(
                "graph_rows", f"Node {product.name!r} has {rows} rows, not {step.rows} or {step.outputs}."
            )
        for share in step.shares:
            (start, stop), gate = (share.rows, share.gate) if rows == step.rows else (share.outputs, share.output_gate)
            factors = self._slots[share.slot].get(product.key)
            if factors is not None and start < stop:
                yield Group(start, stop, factors, share.weight, np.array(gate, np.float32) if gate else None)
