"""Every tensor of a GGUF base before any is written: names, order, shapes, types and sizes. Reads no weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from edgelora_converters.base.checkpoint import EMBEDDING, HEAD, Checkpoint
from edgelora_models.gguf_types import GGML_TYPES
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

Stored = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"]
"""The types this package writes itself."""
Quantization = Stored | Literal["source"]
"""Target type of matrices; `source` keeps each one's stored type, so that nothing is rounded."""

FILE_TYPES: Mapping[Stored, int] = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}
"""llama.cpp's general.file_type of each."""
_SIZES = {kind.name: kind for kind in GGML_TYPES.values()}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of the file to be written."""

    name: str
    source: str | None
    """Its Hugging Face name; None for what is computed from config.json."""
    shape: tuple[int, ...]
    kind: Stored
    heads: int | None = None
    """Number of heads if the rows go into llama.cpp's rotary order."""

    @property
    def nbytes(self) -> int:
        size = _SIZES[self.kind]
        return math.prod(self.shape) // size.block * size.nbytes


def plan_tensors(checkpoint: Checkpoint, quantization: Quantization) -> list[PlannedTensor]:
    """Return every tensor in file order. Norms and rope factors are F32, always."""
    return list(_Planner(checkpoint, quantization).tensors())


@dataclass(frozen=True, slots=True)
class _Planner:
    checkpoint: Checkpoint
    quantization: Quantization

    def tensors(self) -> Iterator[PlannedTensor]:
        shape = self.checkpoint.config.shape
        if self.checkpoint.config.rope.kind != "default":
            yield PlannedTensor("rope_freqs.weight", None, (shape.head_dim // 2,), "F32")
        yield self.matrix("token_embd.weight", EMBEDDING, (shape.vocab, shape.hidden))
        for layer in range(shape.layers):
            yield from self.layer(layer, shape)
        yield PlannedTensor("output_norm.weight", "model.norm.weight", (shape.hidden,), "F32")
        if not shape.tied:
            yield self.matrix("output.weight", HEAD, (shape.vocab, shape.hidden))

    def layer(self, layer: int, shape: LlamaShape) -> Iterator[PlannedTensor]:
        hf, size = f"model.layers.{layer}", (shape.hidden,)
        yield PlannedTensor(f"blk.{layer}.attn_norm.weight", f"{hf}.input_layernorm.weight", size, "F32")
        yield PlannedTensor(f"blk.{layer}.ffn_norm.weight", f"{hf}.post_attention_layernorm.weight", size, "F32")
        for module in LINEAR_MODULES:
            widths = (module.out_features(shape), module.in_features(shape))
            name = f"{module.hf_path(layer)}.weight"
            yield self.matrix(module.gguf_path(layer), name, widths, module.rotary_heads(shape))

    def matrix(self, name: str, source: str, shape: tuple[int, int], heads: int | None = None) -> PlannedTensor:
        return PlannedTensor(name, source, shape, self.kind(source, shape[1]), heads)

    def kind(self, source: str, width: int) -> Stored:
        if self.quantization == "source":
            dtype = self.checkpoint.dtypes[source]
            return "F16" if dtype == "F16" else "BF16" if dtype == "BF16" else "F32"
        head = EMBEDDING if self.checkpoint.config.shape.tied else HEAD
        if self.quantization == "Q4_0" and source == head:
            return "Q8_0" if width % 32 == 0 else "F16"  # as llama.cpp: four bits are too few for the head
        return "F16" if width % _SIZES[self.quantization].block else self.quantization
