"""Base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelora_models.errors import BaseError
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

BLOCK_BYTES = 16 << 20
"""Bytes of float32 rows in one block of `row_blocks`."""


class BaseWeights(Protocol):
    """An open base. Names, shapes and row order are Hugging Face's, whatever the source; not thread-safe.

    Every method raises BaseError for a name the base has not and for damaged data, StorageError for the disk.
    """

    @property
    def llama(self) -> LlamaShape:
        """The base's counts and widths."""

    @property
    def exact(self) -> bool:
        """True if every weight is as trained (F32, F16, BF16). Otherwise some are dequantized and only near the trained
        ones, and what is computed from them is right for this quantized base and for no other."""

    def is_exact(self, name: str) -> bool:
        """Return whether a single weight is as trained: norms are, in quantized files too."""

    @property
    def precision(self) -> str:
        """Stored types of the matrices, for people: such as `BF16` or `Q4_K, Q6_K`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every weight a Llama of this shape has, such as `model.layers.3.self_attn.q_proj.weight`. Without
        `lm_head.weight` where the base is tied."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return [out_features, in_features] of a matrix, [vocab, hidden] of embedding and head, [hidden] of a norm."""

    def read(self, name: str) -> NDArray[np.float32]:
        """Read the whole tensor, a fresh array."""

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Read the rows `start` to before `stop` of a matrix, a fresh array; `start` < `stop`."""


def row_blocks(weights: BaseWeights, name: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield a matrix from its first row to its last in blocks of about BLOCK_BYTES, each with the number of its first
    row."""
    rows, width = weights.shape(name)
    step = max(1, BLOCK_BYTES // (4 * width))
    for start in range(0, rows, step):
        yield start, weights.rows(name, start, min(start + step, rows))


def llama_tensors(shape: LlamaShape) -> Mapping[str, tuple[int, ...]]:
    """Return the name and shape of every weight of a Llama."""
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, shape.hidden)}
    for layer in range(shape.layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = (shape.hidden,)
        for module in LINEAR_MODULES:
            size = (module.out_features(shape), module.in_features(shape))
            tensors[f"{module.hf_path(layer)}.weight"] = size
    tensors["model.norm.weight"] = (shape.hidden,)
    if not shape.tied:
        tensors["lm_head.weight"] = (shape.vocab, shape.hidden)
    return tensors


def no_such_weight(name: str) -> BaseError:
    """Return the error for a name that is none of a base's weights."""
    return BaseError("base_tensor", f"The base has no tensor {name}.", "It may be another base than the adapter's.")
