"""The `config.json` of a Hugging Face or MLX folder, as far as it says what base this is. Reads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelora_models.errors import BaseError
from edgelora_models.files import read_json
from edgelora_models.shape import LlamaShape

CONFIG_NAME = "config.json"
MAX_CONFIG_BYTES = 1 << 20
MAX_COUNT = 1 << 24
"""No width or count of a Llama comes near it; products of three stay below 2**63 with room."""

_REMEDY = "Use a Llama-architecture base (edgelora base ls shows known ones)."


@dataclass(frozen=True, slots=True)
class HfConfig:
    shape: LlamaShape
    context_length: int
    """Tokens the model was made for."""
    quantization: str
    """Such as `4-bit, groups of 64` (MLX) or `bfloat16`."""
    name: str | None


def read_shape(folder: Path) -> LlamaShape:
    """Read the shape of the base in `folder`. Raises BaseError where it is no Llama or its config.json is unsound."""
    return read_hf_config(folder).shape


def read_hf_config(folder: Path) -> HfConfig:
    """Read and check `folder`/config.json. Raises BaseError."""
    return parse_hf_config(read_json(folder / CONFIG_NAME, limit=MAX_CONFIG_BYTES, error=BaseError))


def read_mlx_bits(folder: Path) -> frozenset[int]:
    """Return the bit widths of an MLX folder's quantized weights, overrides of single modules included; empty if it is
    not quantized. Raises BaseError."""
    quantization = read_json(folder / CONFIG_NAME, limit=MAX_CONFIG_BYTES, error=BaseError).get("quantization")
    if not isinstance(quantization, dict):
        return frozenset()
    settings = [quantization, *(value for value in quantization.values() if isinstance(value, dict))]
    return frozenset(bits for setting in settings if isinstance(bits := setting.get("bits"), int))


def parse_hf_config(fields: Mapping[str, Any]) -> HfConfig:
    """Check a configuration as parsed from JSON. Raises BaseError."""
    kind = fields.get("model_type")
    if kind != "llama":
        raise BaseError("base_not_llama", f"{CONFIG_NAME} says model_type {str(kind)[:80]!r}, not 'llama'.", _REMEDY)
    for bias in ("attention_bias", "mlp_bias"):
        if fields.get(bias):
            raise BaseError("base_unsupported", f"{CONFIG_NAME} says {bias}: its linear modules have biases.", _REMEDY)
    name = fields.get("_name_or_path")
    return HfConfig(
        shape=_shape(fields),
        context_length=_count(fields, "max_position_embeddings"),
        quantization=_quantization(fields),
        name=name if isinstance(name, str) and name else None,
    )


def _shape(fields: Mapping[str, Any]) -> LlamaShape:
    hidden, heads = _count(fields, "hidden_size"), _count(fields, "num_attention_heads")
    shape = LlamaShape(
        layers=_count(fields, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_count(fields, "num_key_value_heads", default=heads),
        head_dim=_count(fields, "head_dim", default=hidden // heads),
        ffn=_count(fields, "intermediate_size"),
        vocab=_count(fields, "vocab_size"),
        # LlamaConfig's own default; transformers leaves out what equals it.
        tied=fields.get("tie_word_embeddings") is True,
    )
    check_shape(shape)
    return shape


def check_shape(shape: LlamaShape) -> None:
    """Refuse a shape no Llama can have. Raises BaseError."""
    if shape.heads % shape.kv_heads:
        message = f"{shape.heads} heads cannot share {shape.kv_heads} key/value heads"
    elif shape.head_dim % 2:
        message = f"heads of {shape.head_dim} elements cannot be rotated in pairs"
    else:
        return
    raise BaseError("base_corrupt", f"The base's numbers contradict each other: {message}.", _REMEDY)


def _count(fields: Mapping[str, Any], key: str, *, default: int | None = None) -> int:
    value = fields.get(key)
    if value is None and default is not None:
        value = default
    if type(value) is not int or not 1 <= value <= MAX_COUNT:
        raise BaseError("base_corrupt", f"{CONFIG_NAME} says {key}: {str(value)[:40]}, not a count.", _REMEDY)
    return value


def _quantization(fields: Mapping[str, Any]) -> str:
    mlx = fields.get("quantization")
    if isinstance(mlx, dict):
        return f"{str(mlx.get('bits'))[:8]}-bit, groups of {str(mlx.get('group_size'))[:8]}"
    if isinstance(fields.get("quantization_config"), dict):
        method = str(fields["quantization_config"].get("quant_method"))[:40]
        raise BaseError(
            "base_unsupported",
            f"The base is quantized by {method!r}, which edgelora cannot run.",
            "Use the original model, a GGUF file, or an MLX build of it.",
        )
    dtype = fields.get("torch_dtype") or fields.get("dtype")
    return dtype if isinstance(dtype, str) and len(dtype) <= 20 else "unknown"
