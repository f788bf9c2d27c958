"""Bases for the oracle: a Hugging Face folder, or a GGUF file with its weights dequantized. Owns no arithmetic.

`load_*` widen everything to float in memory, which is for small bases; `open_streamed` keeps a layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgelora_converters.oracle.llama import LlamaConfig, NumpyLlama, Precision, llama3_factors
from edgelora_converters.oracle.stream import StreamedLlama
from edgelora_converters.weights.gguf import GgufWeights
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.errors import BaseError
from edgelora_models.files import read_json
from edgelora_models.shape import LlamaShape

JSON_LIMIT = 16 << 20
"""Bytes of config.json."""


def load_hf(folder: Path, *, dtype: Precision = "float32") -> NumpyLlama:
    """Load the Llama in a Hugging Face folder: config.json and safetensors, sharded or not. Raises BaseError."""
    config = hf_config(read_json(folder / "config.json", limit=JSON_LIMIT, error=BaseError))
    with open_base_weights(folder) as weights:
        return NumpyLlama({name: weights.read(name) for name in weights.names}, config, dtype=dtype)


def load_gguf(path: Path, *, dtype: Precision = "float32") -> NumpyLlama:
    """Load the Llama in a GGUF file, dequantized to float32, q and k back in Hugging Face row order. Raises
    BaseError."""
    with GgufWeights(path) as base:
        return NumpyLlama({name: base.read(name) for name in base.names}, _gguf_config(base), dtype=dtype)


@contextmanager
def open_streamed(path: Path) -> Iterator[StreamedLlama]:
    """Open the Llama in a Hugging Face folder or a GGUF file, its weights read as they are needed. Raises BaseError."""
    with open_base_weights(path) as weights:
        if isinstance(weights, GgufWeights):
            config = _gguf_config(weights)
        else:
            config = hf_config(read_json(path / "config.json", limit=JSON_LIMIT, error=BaseError))
        yield StreamedLlama(weights, config)


def hf_config(config: Mapping[str, Any]) -> LlamaConfig:
    """Read from config.json what the forward pass needs, in the form of transformers 4 or 5. Raises BaseError."""
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


def _gguf_config(base: GgufWeights) -> LlamaConfig:
    return LlamaConfig(
        base.llama,
        norm_epsilon=float(str(base.metadata["llama.attention.layer_norm_rms_epsilon"])),
        rope_theta=float(str(base.metadata.get("llama.rope.freq_base", 10000.0))),
        rope_factors=base.rope_factors(),
    )
