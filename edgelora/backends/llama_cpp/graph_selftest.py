"""The start-up self-test of the graph's memory layout in the installed library, as `ggml_tensor.py` defines it.

One small step runs with every node observed. The first node proves the layout before any pointer in it is followed.
Then every linear module, including the output head, must appear once, with its widths and an expected number of rows.
The address of its weight is kept, by which the hook identifies modules later; so is that of the embedding, which is
looked up. Each layer's down projection gets a known delta, and the sum computed from it must include it. Any deviation
is a BackendError, and the backend falls back to llama.cpp's own LoRA. The same step also tests the native callback, if
there is one (`trial`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp.context import SELF_TEST_OUTPUTS, Context
from edgelora.backends.llama_cpp.ggml_tensor import (
    OP_ADD,
    OP_GET_ROWS,
    OP_MUL_MAT,
    TYPE_F32,
    GgmlTensor,
    rows_of,
    tensor_at,
    tensor_name,
    tokens_of,
)
from edgelora.backends.llama_cpp.kernel_selftest import KernelTrial
from edgelora.core.errors import BackendError
from edgelora_converters.lora.adapter import Target
from edgelora_models.modules import BY_GGUF, EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape

Rows = NDArray[np.float32]

_HEAD, _EMBEDDING = Target(None, HEAD), Target(None, EMBEDDING)

# Two sequences where two fit, logits for two rows of five, so that all rows and output rows differ in number.
_TOKENS = ((0, 1, 2), (1, 2))


def find_weights(
    context: Context, shape: LlamaShape, *, max_sequences: int, trial: KernelTrial | None = None
) -> dict[Target, int]:
    """Prove the layout, and return the weight address of every linear module, the embedding and the head.

    Leaves the KV empty. `trial` receives every module's product, and the lookup. Raises BackendError on any deviation.
    """
    chunks = [
        Chunk(sequence=sequence, position=0, tokens=tokens, adapters=(), logits=0 if sequence else SELF_TEST_OUTPUTS)
        for sequence, tokens in enumerate(_TOKENS[:max_sequences])
    ]
    probe = _Probe(shape, trial, rows=sum(len(chunk.tokens) for chunk in chunks), outputs=SELF_TEST_OUTPUTS)
    try:
        code = context.eval_callback.watch(probe, lambda: context.decode(chunks))
    finally:
        for chunk in chunks:
            context.clear(chunk.sequence)
    if code != 0:
        raise BackendError("self_test", f"llama.cpp refused the self-test's step (code {code}).")
    return probe.result()


class _Probe:
    """Watches one step; see the file's docstring."""

    def __init__(self, shape: LlamaShape, trial: KernelTrial | None, *, rows: int, outputs: int) -> None:
        self._shape = shape
        self._trial = trial
        self._rows = rows
        self._outputs = outputs
        self._weights: dict[Target, int] = {}
        self._sums: dict[int, Rows] = {}
        """Copies of the residual stream, by node address."""
        self._changed: dict[int, Rows] = {}
        """Copies of the nodes that were given a delta and whose reader has not come yet, by node address."""
        self._confirmed = 0
        self._started = False

    def wants(self, node: int) -> bool:
        return True

    def visit(self, node: int) -> None:
        tensor = tensor_at(node)
        if not self._started:
            self._check_first(tensor)
            self._take_embedding(node, tensor)
            self._started = True
        if tensor.op == OP_MUL_MAT and (target := _target(tensor)) is not None:
            self._take(node, tensor, target)
        elif tensor.op == OP_ADD:
            self._confirm(node, tensor)

    def result(self) -> dict[Target, int]:
        expected = {Target(layer, module) for layer in range(self._shape.layers) for module in BY_GGUF.values()}
        expected |= {_HEAD, _EMBEDDING}
        missing = expected - self._weights.keys()
        _require(not missing, f"{len(missing)} of {len(expected)} modules are not in the graph under their names")
        _require(self._confirmed == self._shape.layers, "a change to a node was not seen by the graph")
        return self._weights

    def _check_first(self, tensor: GgmlTensor) -> None:
        """The embedding lookup. Its name stands behind every field but two, so where that fits, the offsets do."""
        width = self._shape.hidden
        fits = (
            tensor.name == b"embd"
            and tensor.type == TYPE_F32
            and tensor.op == OP_GET_ROWS
            and list(tensor.ne) == [width, self._rows, 1, 1]
            and list(tensor.nb)[:2] == [4, 4 * width]
            and bool(tensor.data)
            and bool(tensor.src[0])
        )
        _require(fits, "the first node is not the embedding lookup in the known layout")
        weight = tensor_at(tensor.src[0])
        _require(
            weight.name == b"token_embd.weight" and weight.ne[0] == width, "the embedding's source is not its weight"
        )

    def _take_embedding(self, node: int, tensor: GgmlTensor) -> None:
        self._weights[_EMBEDDING] = tensor.src[0]
        tokens, y = tokens_of(tensor_at(tensor.src[1])), rows_of(tensor)
        _require(len(tokens) == len(y), f"the embedding looks up {len(tokens)} tokens for {len(y)} rows")
        if self._trial is not None:
            self._trial.visit(node, weight=tensor.src[0], name="the embedding", x=tokens, y=y)

    def _take(self, node: int, tensor: GgmlTensor, target: Target) -> None:
        name = target.gguf_path
        y, x = rows_of(tensor), rows_of(tensor_at(tensor.src[1]))
        _require(target not in self._weights, f"{name} appears twice")
        _require(
            y.shape[0] == x.shape[0] and y.shape[0] in (self._rows, self._outputs), f"{name} has {y.shape[0]} rows"
        )
        widths = (target.module.in_features(self._shape), target.module.out_features(self._shape))
        _require((x.shape[1], y.shape[1]) == widths, f"{name} maps {x.shape[1]} to {y.shape[1]}")
        self._weights[target] = tensor.src[0]
        if self._trial is not None:
            self._trial.visit(node, weight=tensor.src[0], name=name, x=x, y=y)
        if target.module.gguf == "ffn_down":
            y += 1.0 + np.abs(y).max()
            self._changed[node] = y.copy()

    def _confirm(self, node: int, tensor: GgmlTensor) -> None:
        total, sources = rows_of(tensor), (tensor.src[0], tensor.src[1])
        for changed, other in (sources, sources[::-1]):
            if changed in self._changed and other in self._sums:
                expected = self._changed.pop(changed) + self._sums[other]
                _require(np.allclose(total, expected, rtol=1e-5, atol=1e-5), "a change to a node was lost")
                self._confirmed += 1
        self._sums[node] = total.copy()


def _target(tensor: GgmlTensor) -> Target | None:
    """The module whose weight this product uses, by the weight's name `blk.N.X.weight`; the head's is `output.weight`,
    or in a tied base the embedding's."""
    match tensor_name(tensor_at(tensor.src[0])).split("."):
        case ["output" | "token_embd", "weight"]:
            return _HEAD
        case ["blk", layer, module, "weight"] if layer.isdecimal() and module in BY_GGUF:
            return Target(int(layer), BY_GGUF[module])
    return None


def _require(holds: bool | np.bool_, what: str) -> None:
    if not holds:
        raise BackendError("self_test", f"The self-test of the evaluation callback failed: {what}.")
