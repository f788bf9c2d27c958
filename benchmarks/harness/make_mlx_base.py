"""The random base of `make_base` as an MLX folder: 4 bits in groups of 64, as mlx-lm's own conversions of it are.

Needs no mlx. Random nibbles with one scale and the bias that centres them: only their size and type matter for speed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.shapes import CHAT_TEMPLATE, CONTEXT_LENGTH, CONTROL_TOKENS, ROPE_THETA, tokens
from edgelora_converters.tensors.safetensors_writer import Planned, write_safetensors
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

BITS, GROUP = 4, 64
SCALE = 0.0037
"""Of a nibble: 0 to 15, centred, have a deviation of 4.6, and weights of a real model one of about 0.017."""
Blocks = Callable[[], Iterable[NDArray[Any]]]


def write_mlx_base(folder: Path, shape: LlamaShape) -> None:
    """Write the new folder. Needs its bytes on disk, and the largest tensor's in memory."""
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", list(_tensors(shape)), metadata={"format": "mlx"})
    _write_json(folder / "config.json", _config(shape))
    words = tokens(shape.vocab)
    _write_json(folder / "tokenizer.json", _tokenizer(words))
    control = words[-CONTROL_TOKENS:]
    special = {"bos_token": control[0], "eos_token": control[9], "chat_template": CHAT_TEMPLATE}
    _write_json(folder / "tokenizer_config.json", special | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _tensors(shape: LlamaShape) -> Iterable[Planned]:
    """Packed weights first, so that each type lies aligned."""
    matrices = [("model.embed_tokens", shape.vocab, shape.hidden), ("lm_head", shape.vocab, shape.hidden)]
    norms = ["model.norm"]
    for layer in range(shape.layers):
        norms += [f"model.layers.{layer}.{name}" for name in ("input_layernorm", "post_attention_layernorm")]
        for module in LINEAR_MODULES:
            matrices.append((module.hf_path(layer), module.out_features(shape), module.in_features(shape)))
    rng = np.random.default_rng(0)
    for path, out, width in matrices:
        packed = (out, width * BITS // 32)
        yield Planned(f"{path}.weight", "U32", packed, partial(_random, rng, packed))
    for path, out, width in matrices:
        groups = (out, width // GROUP)
        yield Planned(f"{path}.scales", "BF16", groups, _filled(groups, SCALE))
        yield Planned(f"{path}.biases", "BF16", groups, _filled(groups, -7.5 * SCALE))
    for name in norms:
        yield Planned(f"{name}.weight", "BF16", (shape.hidden,), _filled((shape.hidden,), 1.0))


def _random(rng: np.random.Generator, shape: tuple[int, int]) -> Iterable[NDArray[Any]]:
    return [rng.integers(0, 1 << 32, shape, dtype=np.uint32)]


def _filled(shape: tuple[int, ...], value: float) -> Blocks:
    """bfloat16 is float32's upper half."""
    half = np.array([value], "<f4").view("<u4")[0] >> 16
    return lambda: [np.full(shape, half, "<u2")]


def _config(shape: LlamaShape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "rms_norm_eps": 1e-5,
        "rope_theta": ROPE_THETA,
        "max_position_embeddings": CONTEXT_LENGTH,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "bfloat16",
        "quantization": {"bits": BITS, "group_size": GROUP},
    }


def _tokenizer(words: list[str]) -> dict[str, Any]:
    plain = len(words) - CONTROL_TOKENS
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": number, "content": words[number], **flags} for number in range(plain, len(words))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {word: number for number, word in enumerate(words[:plain])}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": tokenizer, "merges": []},
    }


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, ensure_ascii=False) + "\n", encoding="utf-8")
