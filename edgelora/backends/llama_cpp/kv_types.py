"""The types keys and values can be kept in: their size, and whether a base can have them. Values only.

Measured by benchmarks/kv_types.py over the built-in base: q8_0 is nearly as exact as f16 in half the memory, and slower
where a prompt is computed deep in a long context, where llama.cpp has faster code for f16 and f32 alone; q4_0 halves it
again, and one token in forty comes out differently. bf16 is left out: f16's memory, f16's error, and none of that code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from edgelora.core.config import KvType
from edgelora.core.errors import UsageError
from edgelora_models.shape import LlamaShape


@dataclass(frozen=True, slots=True)
class KvFormat:
    """One of ggml's types: blocks of `values` numbers in `nbytes` bytes. Source: ggml.h, ggml-common.h."""

    number: int
    """Value in enum ggml_type."""
    values: int
    nbytes: int


FORMATS: Final[Mapping[KvType, KvFormat]] = MappingProxyType(
    {
        "f16": KvFormat(1, 1, 2),
        "f32": KvFormat(0, 1, 4),
        "q8_0": KvFormat(8, 32, 34),
        "q4_0": KvFormat(2, 32, 18),
    }
)


def token_bytes(kv_type: KvType, shape: LlamaShape) -> int:
    """Return the bytes of keys and values of one token, over all layers."""
    kind = FORMATS[kv_type]
    return 2 * shape.layers * shape.kv_width * kind.nbytes // kind.values


def check_kv_type(kv_type: KvType, shape: LlamaShape) -> None:
    """Raises UsageError where a head is no whole number of the type's blocks: llama.cpp refuses that too, later."""
    block = FORMATS[kv_type].values
    if shape.head_dim % block:
        raise UsageError(
            "kv_type_unsupported",
            f"The KV type {kv_type} packs {block} numbers together, and a head of this base has {shape.head_dim}.",
            "Use f16 (--kv-type, EDGELORA_KV_TYPE).",
            param="kv_type",
        )
