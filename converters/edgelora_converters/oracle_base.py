"""Bases for the oracle: a Hugging Face folder, or a GGUF file with its weights dequantized. Owns no arithmetic.

Everything is widened to float in memory, so this is for small bases and for checks, not for serving.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.oracle import LlamaConfig, NumpyLlama, Precision, llama3_factors
from edgelora_converters.rows import deinterleave
from edgelora_converters.safetensors_file import BASE_HEADER_BYTES, open_safetensors
from edgelora_models.errors import BaseError
from edgelora_models.files import read_json
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

JSON_LIMIT = 16 << 20
"""Bytes of config.json and of the shard index, each."""

_GGUF_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_GGUF_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def load_hf(folder: Path, *, dtype: Precision = "float32") -> NumpyLlama:
    """The Llama in a Hugging Face folder: config.json and safetensors, sharded or not. Raises BaseError."""
    config = hf_config(read_json(folder / "config.json", limit=JSON_LIMIT, error=BaseError))
    weights = {name: array for shard in _shards(folder) for name, array in _shard_tensors(shard)}
    _check_names(weights, config.shape, folder)
    return NumpyLlama(weights, config, dtype=dtype)


def load_gguf(path: Path, *, dtype: Precision = "float32") -> NumpyLlama:
    """The Llama in a GGUF file, dequantized to float32, q and k back in Hugging Face row order. Raises BaseError."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    stored = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    config = _gguf_config(reader, stored, path)
    names = _gguf_names(config.shape)
    if missing := sorted(names.keys() - stored.keys()):
        raise _unusable(path, f"the tensor {missing[0]} is missing")
    weights = {hf: deinterleave(stored[name], heads) for name, (hf, heads) in names.items()}
    return NumpyLlama(weights, config, dtype=dtype)


def hf_config(config: Mapping[str, Any]) -> LlamaConfig:
    """What the forward pass needs of a config.json, in the form of transformers 4 or 5. Raises BaseError."""
    try:
        shape = _hf_shape(config)
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        theta = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
        factors = _hf_factors(rope, theta=theta, head_dim=shape.head_dim)
        return LlamaConfig(shape, float(config["rms_norm_eps"]), theta, factors)
    except KeyError as error:
        raise BaseError(
            "bad_config", f"config.json has no {error.args[0]}.", "Use a Llama's own config.json."
        ) from None


def _hf_shape(config: Mapping[str, Any]) -> LlamaShape:
    heads = config["num_attention_heads"]
    return LlamaShape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        ffn=config["intermediate_size"],
        vocab=config["vocab_size"],
        tied=config.get("tie_word_embeddings", False),
    )


def _hf_factors(rope: Mapping[str, Any], *, theta: float, head_dim: int) -> tuple[float, ...] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise BaseError("rope_unsupported", f"config.json asks for {kind!r} RoPE.", "Only Llama 3's is known.")
    return llama3_factors(
        theta=theta,
        head_dim=head_dim,
        factor=float(rope["factor"]),
        low=float(rope["low_freq_factor"]),
        high=float(rope["high_freq_factor"]),
        original_context=int(rope["original_max_position_embeddings"]),
    )


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return [folder / "model.safetensors"]
    shards = read_json(index, limit=JSON_LIMIT, error=BaseError).get("weight_map")
    if not isinstance(shards, dict) or not all(Path(str(name)).name == name for name in shards.values()):
        raise BaseError("bad_index", f"{index} has no usable weight_map.", "Fetch the base again.")
    return [folder / name for name in sorted(set(shards.values()))]


def _shard_tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    with open_safetensors(path, max_header_bytes=BASE_HEADER_BYTES, corrupt=BaseError, unsupported=BaseError) as file:
        for name in file.names:
            yield name, file.read_f32(name)


def _check_names(weights: Mapping[str, Any], shape: LlamaShape, folder: Path) -> None:
    for name, _ in _gguf_names(shape).values():
        if name not in weights:
            raise _unusable(folder, f"the tensor {name} is missing")


def _gguf_names(shape: LlamaShape) -> dict[str, tuple[str, int | None]]:
    """For every GGUF weight of a Llama its Hugging Face name, and the head count that orders its rows, if one does."""
    names: dict[str, tuple[str, int | None]] = {gguf: (hf, None) for gguf, hf in _GGUF_OUTER.items()}
    if shape.tied:
        del names["output.weight"]
    for layer in range(shape.layers):
        for gguf, hf in _GGUF_NORMS.items():
            names[f"blk.{layer}.{gguf}.weight"] = (f"model.layers.{layer}.{hf}.weight", None)
        for module in LINEAR_MODULES:
            names[module.gguf_path(layer)] = (f"{module.hf_path(layer)}.weight", module.rotary_heads(shape))
    return names


def _gguf_config(reader: Any, stored: Mapping[str, NDArray[np.float32]], path: Path) -> LlamaConfig:
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("llama.")}
    try:
        shape = _gguf_shape({name.removeprefix("llama."): value for name, value in fields.items()}, stored)
        factors = stored.get("rope_freqs.weight")
        return LlamaConfig(
            shape,
            float(fields["llama.attention.layer_norm_rms_epsilon"]),
            float(fields.get("llama.rope.freq_base", 10000.0)),
            None if factors is None else tuple(factors.tolist()),
        )
    except KeyError as error:
        raise _unusable(path, f"{error.args[0]} is missing") from None


def _gguf_shape(fields: Mapping[str, Any], stored: Mapping[str, NDArray[np.float32]]) -> LlamaShape:
    hidden, heads = fields["embedding_length"], fields["attention.head_count"]
    return LlamaShape(
        layers=fields["block_count"],
        hidden=hidden,
        heads=heads,
        kv_heads=fields.get("attention.head_count_kv", heads),
        head_dim=fields.get("attention.key_length", hidden // heads),
        ffn=fields["feed_forward_length"],
        vocab=len(stored["token_embd.weight"]),
        tied="output.weight" not in stored,
    )


def _unusable(path: Path, why: str) -> BaseError:
    return BaseError("bad_base", f"{path} cannot be used as a Llama: {why}.", "Fetch or convert the base again.")
