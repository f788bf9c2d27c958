"""Tiny random Llama bases for tests: Hugging Face weights as numpy arrays, and the same base as a GGUF file.

The vocabulary is real enough to tokenise: the 256 byte tokens of byte-level BPE (no merges), reserved
fillers, and Llama-3's control tokens at the end. Owns no adapter: see `tests.support.adapters`.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray

from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

CONTROL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)
MIN_VOCAB = 256 + len(CONTROL_TOKENS)
CONTEXT_LENGTH = 512
NORM_EPSILON = 1e-5
ROPE_THETA = 10000.0
# The original context is short so that the scaling bites at the handful of positions a test reaches.
ROPE_SCALING: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

Weights = dict[str, NDArray[np.float32]]


def tiny_weights(shape: LlamaShape, *, seed: int) -> Weights:
    """Random weights under their Hugging Face names, [out, in] float32, scaled so that activations stay near 1."""
    rng = np.random.default_rng(seed)

    def matrix(out: int, width: int, std: float) -> NDArray[np.float32]:
        return (rng.standard_normal((out, width)) * std).astype(np.float32)

    weights: Weights = {"model.embed_tokens.weight": matrix(shape.vocab, shape.hidden, 1.0)}
    for layer in range(shape.layers):
        for module in LINEAR_MODULES:
            width = module.in_features(shape)
            name = f"{module.hf_path(layer)}.weight"
            weights[name] = matrix(module.out_features(shape), width, 1.0 / math.sqrt(width))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{norm}.weight"] = 1.0 + matrix(1, shape.hidden, 0.1)[0]
    weights["model.norm.weight"] = 1.0 + matrix(1, shape.hidden, 0.1)[0]
    if not shape.tied:
        weights["lm_head.weight"] = matrix(shape.vocab, shape.hidden, 2.0 / math.sqrt(shape.hidden))
    return weights


def tiny_config(shape: LlamaShape) -> dict[str, Any]:
    """The Hugging Face config.json that goes with `tiny_weights`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "rms_norm_eps": NORM_EPSILON,
        "max_position_embeddings": CONTEXT_LENGTH,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": ROPE_THETA,
        "rope_scaling": dict(ROPE_SCALING),
    }


def tiny_tokens(vocab: int) -> list[str]:
    """Token strings in id order: 256 byte tokens, reserved fillers, then CONTROL_TOKENS as the last six."""
    if vocab < MIN_VOCAB:
        raise ValueError(f"a tiny base needs a vocabulary of at least {MIN_VOCAB}, not {vocab}")
    fillers = [f"<|reserved_special_token_{n}|>" for n in range(vocab - MIN_VOCAB)]
    return [*byte_alphabet(), *fillers, *CONTROL_TOKENS]


def byte_alphabet() -> list[str]:
    """How byte-level BPE writes each byte 0..255 as one visible character."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


def write_tiny_gguf(path: Path, shape: LlamaShape, *, seed: int, quantization: str = "F32") -> Path:
    """Write `tiny_weights(shape, seed=seed)` as a GGUF base and return `path`.

    `quantization`: F32, F16, Q8_0 or Q4_0 for all matrices, or Q4_K_M (llama.cpp's mix; widths: multiples of 256).
    """
    if quantization == "Q4_K_M":
        source = write_tiny_gguf(path.with_suffix(".f32.gguf"), shape, seed=seed)
        _quantize_file(source, path)
        source.unlink()
        return path
    writer = gguf.GGUFWriter(str(path), "llama")
    _write_header(writer, shape)
    kind = gguf.GGMLQuantizationType[quantization]
    for name, array in _gguf_tensors(shape, tiny_weights(shape, seed=seed)).items():
        stored = gguf.GGMLQuantizationType.F32 if array.ndim == 1 else kind
        writer.add_tensor(name, quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_header(writer: gguf.GGUFWriter, shape: LlamaShape) -> None:
    writer.add_name("tiny")
    writer.add_block_count(shape.layers)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab)
    _write_vocabulary(writer, shape.vocab)


def _write_vocabulary(writer: gguf.GGUFWriter, vocab: int) -> None:
    tokens = tiny_tokens(vocab)
    control = [gguf.TokenType.CONTROL] * (vocab - 256)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + control)
    writer.add_token_merges(["a b"])  # an empty array is refused, and "ab" is no token: this one never applies
    writer.add_bos_token_id(tokens.index("<|begin_of_text|>"))
    writer.add_eos_token_id(tokens.index("<|eot_id|>"))
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def _gguf_tensors(shape: LlamaShape, weights: Weights) -> Weights:
    tensors: Weights = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "rope_freqs.weight": rope_factors(shape.head_dim),
        "output_norm.weight": weights["model.norm.weight"],
    }
    if not shape.tied:
        tensors["output.weight"] = weights["lm_head.weight"]
    for layer in range(shape.layers):
        hf = f"model.layers.{layer}"
        tensors[f"blk.{layer}.attn_norm.weight"] = weights[f"{hf}.input_layernorm.weight"]
        tensors[f"blk.{layer}.ffn_norm.weight"] = weights[f"{hf}.post_attention_layernorm.weight"]
        for module in LINEAR_MODULES:
            matrix = weights[f"{module.hf_path(layer)}.weight"]
            tensors[module.gguf_path(layer)] = _interleaved(matrix, module.rotary_heads(shape))
    return tensors


def _interleaved(matrix: NDArray[np.float32], heads: int | None) -> NDArray[np.float32]:
    if heads is None:
        return matrix
    out, width = matrix.shape
    return np.ascontiguousarray(matrix.reshape(heads, 2, out // heads // 2, width).swapaxes(1, 2).reshape(out, width))


def rope_factors(head_dim: int) -> NDArray[np.float32]:
    """llama3's divisor of each rotary frequency, [head_dim / 2]: 1 for short waves, `factor` for long."""
    original = float(ROPE_SCALING["original_max_position_embeddings"])
    factor, low, high = (float(ROPE_SCALING[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    frequencies = ROPE_THETA ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    factors = np.where(wavelengths < original / high, 1.0, 1.0 / ((1 - smooth) / factor + smooth))
    return np.where(wavelengths > original / low, factor, factors).astype(np.float32)


def _quantize_file(source: Path, target: Path) -> None:
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    parameters.nthread = 1
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) != 0:
        raise RuntimeError(f"llama.cpp could not quantize {source}")
