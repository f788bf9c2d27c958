"""Checking that a GGUF header describes a Llama base that llama.cpp can load without harm, and reading its shape.

llama.cpp is not the one to find out: a missing key or a tensor of another shape has crashed it, not failed. Every
tensor is expected by name and shape, and no other may be there, as in llama.cpp's own count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from edgelora_models.errors import BaseError
from edgelora_models.files import quoted
from edgelora_models.gguf_header import GgufHeader, GgufTensor
from edgelora_models.gguf_types import GGML_F32, GGML_TYPES, NOT_WEIGHTS
from edgelora_models.hf_config import MAX_COUNT, check_shape
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

MAX_LAYERS = 1_024

_USE_ANOTHER = "Use a plain Llama GGUF made by llama.cpp's converter."
_AGAIN = "Fetch or convert the file again."

T = TypeVar("T", bool, int, float, str)


def read_shape(header: GgufHeader) -> LlamaShape:
    """Read the base's shape, after checking metadata and tensors against each other. Raises BaseError."""
    _check_kind(header)
    shape = _shape(header)
    check_shape(shape)
    _check_rope(header, shape)
    _check_tokenizer(header, shape)
    _check_tensors(header, shape)
    return shape


def text(header: GgufHeader, key: str) -> str | None:
    """Return a string from the metadata; None where it is absent. Raises BaseError for another type."""
    return _optional(header, key, str)


def count(header: GgufHeader, key: str, *, default: int | None = None) -> int:
    """Return a positive whole number from the metadata. Raises BaseError."""
    value = _optional(header, key, int)
    value = default if value is None else value
    if value is None or not 1 <= value <= MAX_COUNT:
        raise _corrupt(f"{key} is {'missing' if value is None else value}")
    return value


def texts(header: GgufHeader, key: str) -> list[str] | None:
    """Return a list of strings from the metadata; None where it is absent. Raises BaseError for another type."""
    value = header.metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or header.types[key] != "[str]":
        raise _corrupt(f"{key} is of type {header.types[key]}")
    return [str(item) for item in value]


def _optional(header: GgufHeader, key: str, kind: type[T]) -> T | None:
    value = header.metadata.get(key)
    if value is None:
        return None
    if type(value) is not kind:
        raise _corrupt(f"{key} is of type {header.types[key]}")
    return value


def _corrupt(what: str) -> BaseError:
    return BaseError("base_corrupt", f"The GGUF file is not a sound base: {what}.", _AGAIN)


def _unsupported(what: str) -> BaseError:
    return BaseError("base_unsupported", f"The GGUF file cannot be used as a base: {what}.", _USE_ANOTHER)


def _check_kind(header: GgufHeader) -> None:
    if text(header, "general.type") == "adapter" or text(header, "adapter.type") is not None:
        raise BaseError(
            "base_is_adapter",
            "The GGUF file is an adapter and not a base.",
            "Install the PEFT adapter it was made from: edgelora add DIR.",
        )
    architecture = text(header, "general.architecture")
    if architecture != "llama":
        raise BaseError(
            "base_not_llama",
            f"The GGUF file has the architecture {quoted(str(architecture))}; edgelora runs 'llama'.",
            "Use a Llama-architecture base (edgelora base ls shows known ones).",
        )
    if (_optional(header, "split.count", int) or 0) > 1:
        raise _unsupported("it is one part of several; merge them with llama-gguf-split --merge")
    if _optional(header, "llama.expert_count", int):
        raise _unsupported("it is a mixture of experts")


def _shape(header: GgufHeader) -> LlamaShape:
    hidden, heads = count(header, "llama.embedding_length"), count(header, "llama.attention.head_count")
    head_dim = count(header, "llama.attention.key_length", default=hidden // heads)
    if count(header, "llama.attention.value_length", default=head_dim) != head_dim:
        raise _unsupported("its keys and values differ in width")
    layers = count(header, "llama.block_count")
    if layers > MAX_LAYERS:
        raise _corrupt(f"llama.block_count is {layers}")
    return LlamaShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=count(header, "llama.attention.head_count_kv", default=heads),
        head_dim=head_dim,
        ffn=count(header, "llama.feed_forward_length"),
        vocab=_vocab(header),
        tied="output.weight" not in header.tensors,
    )


def _vocab(header: GgufHeader) -> int:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise _corrupt("token_embd.weight is missing or no matrix")
    vocab = embedding.shape[1]
    if vocab > MAX_COUNT or count(header, "llama.vocab_size", default=vocab) != vocab:
        raise _corrupt(f"llama.vocab_size and the {vocab} rows of token_embd.weight differ")
    return vocab


def _check_rope(header: GgufHeader, shape: LlamaShape) -> None:
    epsilon = _optional(header, "llama.attention.layer_norm_rms_epsilon", float)
    if epsilon is None or not 0 < epsilon < 1:
        raise _corrupt(f"llama.attention.layer_norm_rms_epsilon is {epsilon}")
    base = _optional(header, "llama.rope.freq_base", float)
    if base is not None and not (math.isfinite(base) and base > 0):
        raise _corrupt(f"llama.rope.freq_base is {base}")
    rotated = count(header, "llama.rope.dimension_count", default=shape.head_dim)
    if rotated > shape.head_dim or rotated % 2:
        raise _corrupt(f"llama.rope.dimension_count is {rotated}, the heads have {shape.head_dim} elements")


def _check_tokenizer(header: GgufHeader, shape: LlamaShape) -> None:
    if text(header, "tokenizer.ggml.model") in (None, "none"):
        return
    tokens = texts(header, "tokenizer.ggml.tokens")
    if tokens is None or len(tokens) != shape.vocab:
        raise _corrupt(f"it has {len(tokens or [])} tokens for {shape.vocab} rows of token_embd.weight")
    for key, kind in (("token_type", "[i32]"), ("scores", "[f32]")):
        values = header.metadata.get(f"tokenizer.ggml.{key}")
        typed = header.types.get(f"tokenizer.ggml.{key}") == kind and isinstance(values, list)
        if values is not None and not (typed and len(values) == shape.vocab):  # type: ignore[arg-type]
            raise _corrupt(f"tokenizer.ggml.{key} does not give one value per token")
    texts(header, "tokenizer.ggml.merges")


def _check_tensors(header: GgufHeader, shape: LlamaShape) -> None:
    expected = _expected(shape)
    optional = {"rope_freqs.weight"}
    for name in header.tensors.keys() - expected.keys():
        fused = name.endswith("attn_qkv.weight")
        raise _unsupported(
            f"it holds {quoted(name)}, " + ("a fused tensor" if fused else "which a plain Llama has not")
        )
    for name, expected_shape in expected.items():
        tensor = header.tensors.get(name)
        if tensor is not None:
            _check_tensor(name, tensor, expected_shape)
        elif name not in optional:
            raise _corrupt(f"the tensor {name} is missing")


def _check_tensor(name: str, tensor: GgufTensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise _corrupt(f"the tensor {name} has the shape {list(tensor.shape)}, not {list(expected)}")
    kind = GGML_TYPES[tensor.type].name
    if (len(expected) == 1 and tensor.type != GGML_F32) or tensor.type in NOT_WEIGHTS:
        raise _corrupt(f"the tensor {name} is stored as {kind}")


def _expected(shape: LlamaShape) -> Mapping[str, tuple[int, ...]]:
    """Return every tensor a Llama of this shape may have, with its shape in ggml's order."""
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (shape.hidden, shape.vocab),
        "output_norm.weight": (shape.hidden,),
        "rope_freqs.weight": (shape.head_dim // 2,),
    }
    if not shape.tied:
        tensors["output.weight"] = (shape.hidden, shape.vocab)
    for layer in range(shape.layers):
        tensors[f"blk.{layer}.attn_norm.weight"] = (shape.hidden,)
        tensors[f"blk.{layer}.ffn_norm.weight"] = (shape.hidden,)
        for module in LINEAR_MODULES:
            tensors[module.gguf_path(layer)] = (module.in_features(shape), module.out_features(shape))
    return tensors
