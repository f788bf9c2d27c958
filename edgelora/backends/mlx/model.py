"""The resident base: its matrices and norms, loaded once from a folder, and what its rotary embedding needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from edgelora.backends.mlx.matrix import Array, Matrix
from edgelora.backends.mlx.weights import Tensors
from edgelora.core.errors import BaseError
from edgelora_converters.base.config import parse_base_config
from edgelora_converters.base.rope import Rope
from edgelora_converters.lora.adapter import Target
from edgelora_models.files import read_json
from edgelora_models.hf_config import CONFIG_NAME, MAX_CONFIG_BYTES
from edgelora_models.modules import EMBEDDING, HEAD, LINEAR_MODULES, LinearModule
from edgelora_models.shape import LlamaShape

Progress = Callable[[float], None]

_OF_MLX = ("quantization", "quantization_config")
"""Keys that mlx-lm writes into config.json, both with the same."""
_ADD_AGAIN = "Check the folder, or get it again with `edgelora base add` or `edgelora base pull`."


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    matrices: Mapping[LinearModule, Matrix]
    before_attention: Array
    """[hidden]: of the norm."""
    before_mlp: Array


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """All weights, evaluated: any thread may read them. Nothing of it is ever changed, nor read from disk again."""

    shape: LlamaShape
    embedding: Matrix
    layers: tuple[Layer, ...]
    norm: Array
    """Weight [hidden] of the norm before the head."""
    head: Matrix
    """Matrix of the output head; the embedding's if they are tied."""
    epsilon: float
    """The epsilon of every norm."""
    frequencies: Array
    """[head_dim / 2]: the angle of a position is position / frequency."""
    trained_context: int

    @property
    def dtype(self) -> Any:
        """Type of activations, keys and values: that of the norms, whatever the matrices are packed as."""
        return self.norm.dtype

    @property
    def nbytes(self) -> int:
        layers = sum(matrix.nbytes for layer in self.layers for matrix in layer.matrices.values())
        return layers + self.embedding.nbytes + (0 if self.shape.tied else self.head.nbytes)

    def matrix(self, target: Target) -> Matrix:
        """Return the matrix of a layer's module, of the embedding or of the head."""
        if target.layer is not None:
            return self.layers[target.layer].matrices[target.module]
        return self.embedding if target.module == EMBEDDING else self.head


def load_base(folder: Path, *, shape: LlamaShape, progress: Progress | None) -> Base:
    """Load the base in `folder`, layer by layer. `progress` gets 0.0 to 1.0; what it raises ends the load.

    Raises BaseError where there is none, it is no Llama, or another than `shape`.
    """
    if not folder.is_dir():
        raise BaseError("base_missing", f"There is no base at {folder}.", "Add one with `edgelora base add PATH`.")
    fields = read_json(folder / CONFIG_NAME, limit=MAX_CONFIG_BYTES, error=BaseError)
    config = parse_base_config(fields, besides=_OF_MLX)
    _check_shape(folder, config.shape, shape)
    frequencies = _frequencies(config.rope, shape)
    tensors = Tensors(folder, fields)
    embedding = _outer(tensors, EMBEDDING, shape)
    head = embedding if shape.tied else _outer(tensors, HEAD, shape)
    norm = tensors.vector("model.norm", shape.hidden)
    tensors.evaluate([*embedding.arrays, *head.arrays, norm, frequencies])
    layers = []
    for number in range(shape.layers):
        if progress is not None:
            progress(number / shape.layers)
        layers.append(_layer(tensors, number, shape))
    if progress is not None:
        progress(1.0)
    return Base(
        shape=shape,
        embedding=embedding,
        layers=tuple(layers),
        norm=norm,
        head=head,
        epsilon=config.norm_epsilon,
        frequencies=frequencies,
        trained_context=config.context_length,
    )


def _check_shape(folder: Path, found: LlamaShape, wanted: LlamaShape) -> None:
    names = [name for name in LlamaShape.__slots__ if getattr(found, name) != getattr(wanted, name)]
    if names:
        differences = ", ".join(f"{name} {getattr(found, name)} instead of {getattr(wanted, name)}" for name in names)
        raise BaseError("base_changed", f"{folder} is not the base it was added as: {differences}.", _ADD_AGAIN)


def _frequencies(rope: Rope, shape: LlamaShape) -> Array:
    waves = rope.theta ** (np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim)
    factors = rope.factors(shape.head_dim)
    return mx.array((waves if factors is None else waves * factors).astype(np.float32))


def _outer(tensors: Tensors, module: LinearModule, shape: LlamaShape) -> Matrix:
    return tensors.matrix(module.hf, shape.vocab, shape.hidden)


def _layer(tensors: Tensors, number: int, shape: LlamaShape) -> Layer:
    norms = [
        tensors.vector(f"model.layers.{number}.{name}", shape.hidden)
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
    matrices = {
        module: tensors.matrix(module.hf_path(number), module.out_features(shape), module.in_features(shape))
        for module in LINEAR_MODULES
    }
    tensors.evaluate([*norms, *(array for matrix in matrices.values() for array in matrix.arrays)])
    return Layer(matrices, *norms)
