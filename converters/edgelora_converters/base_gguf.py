"""Writing a base: a Hugging Face Llama folder to one GGUF file. Owns the base's keys, tensors and quantization.

Needs gguf and numpy only. The tokenizer's part is `base_vocab`. Weights are read and written one at a time, so that a
base larger than memory can be converted. Reading a GGUF back is not done here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.base_vocab import add_vocabulary, base_error
from edgelora_converters.gguf_data import write_tensor
from edgelora_converters.rows import interleave
from edgelora_converters.safetensors_file import BASE_HEADER_BYTES, SafetensorsFile, open_safetensors
from edgelora_converters.staging import staged
from edgelora_models.errors import BaseError
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

if TYPE_CHECKING:
    from gguf import GGUFWriter

Quantization = Literal["F32", "F16", "Q8_0"]
# llama.cpp's general.file_type of each.
_FILE_TYPES: dict[str, int] = {"F32": 0, "F16": 1, "Q8_0": 7}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of the file: its name there, its shape, its GGUF type, and how to get its f32 values."""

    name: str
    shape: tuple[int, ...]
    kind: Quantization
    values: Callable[[], NDArray[np.float32]]


def write_base_gguf(source: Path, out: Path, *, quantization: Quantization) -> None:
    """Write the Hugging Face folder `source` as the GGUF base `out`, replacing what is there, whole or not at all.

    Matrices get `quantization` (F16 where a row is no multiple of Q8_0's 32), norms and rope factors stay f32. The same
    folder gives the same bytes. Raises BaseError where the folder is no Llama this can express, StorageError where the
    file cannot be written.
    """
    config = _read_config(source)
    shape = _shape(config)
    with ExitStack() as stack, staged(out) as temporary:
        weights = _Weights(source, stack)
        tensors = list(_tensors(weights, shape, config, quantization))
        _write_file(temporary, source, config, shape, tensors, quantization)


class _Weights:
    """The base's safetensors files, one or several shards, as one mapping."""

    def __init__(self, source: Path, stack: ExitStack) -> None:
        paths = sorted(source.glob("model*.safetensors"))
        if not paths:
            raise base_error("base_weights", f"{source} has no model.safetensors.")
        self._files: dict[str, SafetensorsFile] = {}
        for path in paths:
            opened = open_safetensors(
                path, max_header_bytes=BASE_HEADER_BYTES, corrupt=BaseError, unsupported=BaseError
            )
            file = stack.enter_context(opened)
            self._files |= dict.fromkeys(file.names, file)

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise BaseError unless the tensor is there in this shape."""
        file = self._files.get(name)
        found = file.tensors[name].shape if file else None
        if found != shape:
            state = "is missing" if found is None else f"has shape {list(found)}"
            raise base_error("base_weights", f"The base's tensor {name} {state}; config.json asks for {list(shape)}.")

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor's values, widened to f32."""
        return self._files[name].read_f32(name)


def _read_config(source: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise base_error("base_config", f"{source / 'config.json'} cannot be read: {error}.") from error
    if config.get("model_type") != "llama":
        raise base_error("base_architecture", f"The base's model_type is {config.get('model_type')!r}, not 'llama'.")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise base_error("base_architecture", f"The base has biases ({key}), which are not supported.")
    if config.get("hidden_act", "silu") != "silu":
        raise base_error("base_architecture", f"The base's activation is {config['hidden_act']!r}, not 'silu'.")
    return config


def _shape(config: Mapping[str, Any]) -> LlamaShape:
    try:
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return LlamaShape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            ffn=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise base_error("base_config", f"The base's config.json has no {error.args[0]}.") from error


def _rope(config: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """(theta, scaling). transformers 5 keeps both in `rope_parameters`, older versions in two keys."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    return float(theta), rope


def rope_factors(config: Mapping[str, Any], head_dim: int) -> NDArray[np.float32] | None:
    """What llama.cpp divides each rotary frequency by: [head_dim / 2], or None where the base scales nothing."""
    theta, rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise base_error(
            "base_rope", f"The base's rope scaling is {kind!r}; only 'default' and 'llama3' are supported."
        )
    try:
        factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
        original = float(rope["original_max_position_embeddings"])
    except KeyError as error:
        raise base_error("base_rope", f"The base's llama3 rope scaling has no {error.args[0]}.") from error
    frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    scaled = np.where(wavelengths > original / low, factor, between)
    return np.where(wavelengths < original / high, 1.0, scaled).astype(np.float32)


def _tensors(
    weights: _Weights, shape: LlamaShape, config: Mapping[str, Any], quantization: Quantization
) -> Iterator[_Tensor]:
    """Every tensor in file order. Raises BaseError where one is missing or of another shape."""

    def matrix(name: str, hf: str, rows: int, width: int, heads: int | None = None) -> _Tensor:
        weights.expect(hf, (rows, width))
        kind: Quantization = "F16" if quantization == "Q8_0" and width % 32 else quantization
        return _Tensor(name, (rows, width), kind, lambda: interleave(weights.read(hf), heads))

    def norm(name: str, hf: str) -> _Tensor:
        weights.expect(hf, (shape.hidden,))
        return _Tensor(name, (shape.hidden,), "F32", lambda: weights.read(hf))

    factors = rope_factors(config, shape.head_dim)
    if factors is not None:
        yield _Tensor("rope_freqs.weight", factors.shape, "F32", lambda: factors)
    yield matrix("token_embd.weight", "model.embed_tokens.weight", shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        yield norm(f"blk.{layer}.attn_norm.weight", f"model.layers.{layer}.input_layernorm.weight")
        yield norm(f"blk.{layer}.ffn_norm.weight", f"model.layers.{layer}.post_attention_layernorm.weight")
        for module in LINEAR_MODULES:
            size = (module.out_features(shape), module.in_features(shape))
            yield matrix(module.gguf_path(layer), f"{module.hf_path(layer)}.weight", *size, module.rotary_heads(shape))
    yield norm("output_norm.weight", "model.norm.weight")
    if not shape.tied:
        yield matrix("output.weight", "lm_head.weight", shape.vocab, shape.hidden)


def _write_file(
    path: Path, source: Path, config: Mapping[str, Any], shape: LlamaShape, tensors: list[_Tensor],
    quantization: Quantization,
) -> None:  # fmt: skip
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    try:
        _add_header(writer, config, shape, quantization)
        add_vocabulary(writer, source, shape.vocab)
        # Sizes first, values one by one: the base is never in memory whole.
        for tensor in tensors:
            _add_info(writer, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            write_tensor(writer, _encoded(tensor))
    finally:
        writer.close()


def _add_header(writer: GGUFWriter, config: Mapping[str, Any], shape: LlamaShape, quantization: Quantization) -> None:
    theta, _ = _rope(config)
    writer.add_type("model")
    writer.add_file_type(_FILE_TYPES[quantization])
    if quantization == "Q8_0":
        writer.add_quantization_version(2)
    writer.add_block_count(shape.layers)
    writer.add_context_length(int(config.get("max_position_embeddings", 2048)))
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    writer.add_rope_freq_base(theta)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab)


def _add_info(writer: GGUFWriter, tensor: _Tensor) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape

    kind = GGMLQuantizationType[tensor.kind]
    size = math.prod(quant_shape_to_byte_shape(tensor.shape, kind))
    # An element type that is not uint8 lets the writer take the shape in elements.
    writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, raw_dtype=kind)


def _encoded(tensor: _Tensor) -> NDArray[Any]:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    encoded: NDArray[Any] = quantize(np.ascontiguousarray(tensor.values()), GGMLQuantizationType[tensor.kind])
    return encoded
