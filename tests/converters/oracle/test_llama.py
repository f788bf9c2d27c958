"""The numpy oracle: right by itself (causal, additive, merged weights agree), and equal to real llama.cpp."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelora_converters.oracle.llama import NumpyLlama, llama3_factors
from edgelora_converters.oracle.open import hf_config, load_gguf, load_hf
from edgelora_models.errors import BaseError
from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_safetensors
from tests.support.bases import ROPE_SCALING, tiny_config, tiny_weights, write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS, delta, random_adapter
from tests.support.native import native_logits, native_model
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle, write_tiny_hf

SHAPES = pytest.mark.parametrize("shape", [GQA, WIDE_HEADS], ids=["gqa", "wide-heads-tied"])


@SHAPES
def test_it_is_llama_cpp(tmp_path: Path, shape: LlamaShape) -> None:
    """On the same random base, every logit of 40 tokens is within 2e-5 of llama.cpp's."""
    with native_model(write_tiny_gguf(tmp_path / "base.gguf", shape, seed=1)) as model:
        native = native_logits(model, TOKENS)
    assert distance(native, tiny_oracle(shape, seed=1).logits(TOKENS)) < 2e-5


@SHAPES
def test_a_delta_is_a_merged_weight(shape: LlamaShape) -> None:
    """Adding b @ a to a module's output is adding it to its weight, on every module at once."""
    adapter = random_adapter(shape, ranks=(1, 3))
    base = tiny_oracle(shape, seed=2)
    merged = {name: array.astype(np.float64) for name, array in tiny_weights(shape, seed=2).items()}
    for target, pair in adapter.pairs.items():
        merged[f"{target.hf_path}.weight"] += delta(pair)
    wanted = NumpyLlama(merged, base.config, dtype="float64").logits(TOKENS)
    found = base.logits(TOKENS, deltas(adapter))
    assert distance(found, wanted) < 1e-12
    assert distance(base.logits(TOKENS), wanted) > 0.01


def test_it_is_causal() -> None:
    """A later token changes nothing before it."""
    oracle = tiny_oracle(GQA, seed=3)
    whole, part = oracle.logits(TOKENS), oracle.logits(TOKENS[:9])
    np.testing.assert_allclose(whole[:9], part, rtol=0, atol=1e-12)


def test_float32_follows_float64() -> None:
    """The two precisions agree to float32's rounding, and each gives its own dtype."""
    narrow, wide = (tiny_oracle(GQA, seed=4, dtype=dtype).logits(TOKENS) for dtype in ("float32", "float64"))
    assert (narrow.dtype, wide.dtype) == (np.float32, np.float64)
    assert 0 < distance(narrow, wide) < 1e-5


def test_llama3_factors_of_llama_3_1() -> None:
    """Llama-3.1-8B's 64 divisors: 1 for the short waves, 8 for the long, rising between."""
    factors = llama3_factors(theta=500000.0, head_dim=128, factor=8.0, low=1.0, high=4.0, original_context=8192)
    assert len(factors) == 64
    assert factors[:29] == (1.0,) * 29
    assert factors[35:] == pytest.approx((8.0,) * 29)
    assert all(1.0 < low < high < 8.0 for low, high in pairwise(factors[29:35]))


def test_hugging_face_folders(tmp_path: Path) -> None:
    """A folder in one file or in shards is the base it was written from."""
    wanted = tiny_oracle(WIDE_HEADS, seed=5).logits(TOKENS)
    whole = write_tiny_hf(tmp_path / "whole", WIDE_HEADS, seed=5)
    assert distance(load_hf(whole, dtype="float64").logits(TOKENS), wanted) == 0
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "config.json").write_bytes((whole / "config.json").read_bytes())
    weights = list(tiny_weights(WIDE_HEADS, seed=5).items())
    index = {}
    for n, part in enumerate((weights[:7], weights[7:])):
        write_safetensors(shards / f"model-{n}.safetensors", dict(part))
        index |= {name: f"model-{n}.safetensors" for name, _ in part}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert distance(load_hf(shards, dtype="float64").logits(TOKENS), wanted) == 0


def test_bf16_bases(tmp_path: Path) -> None:
    """bf16 weights load without torch, as the numbers they are."""
    folder = write_tiny_hf(tmp_path, GQA, seed=6)
    write_safetensors(folder / "model.safetensors", tiny_weights(GQA, seed=6), dtype="BF16")
    found = load_hf(folder).logits(TOKENS)
    assert 1e-4 < distance(found, tiny_oracle(GQA, seed=6).logits(TOKENS)) < 0.05


@SHAPES
def test_gguf_bases(tmp_path: Path, shape: LlamaShape) -> None:
    """A float32 GGUF gives back the very weights: q and k rows, rope factors and all."""
    found = load_gguf(write_tiny_gguf(tmp_path / "base.gguf", shape, seed=7), dtype="float64")
    assert found.config.shape == shape
    assert distance(found.logits(TOKENS), tiny_oracle(shape, seed=7).logits(TOKENS)) < 1e-6


def test_quantized_gguf_bases(tmp_path: Path) -> None:
    """A Q8_0 base is dequantized: llama.cpp on the same file differs only by its own int8 arithmetic."""
    path = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=8, quantization="Q8_0")
    with native_model(path) as model:
        native = native_logits(model, TOKENS)
    assert distance(native, load_gguf(path).logits(TOKENS)) < 0.05


def test_both_forms_of_rope_settings() -> None:
    """transformers 5's rope_parameters mean what transformers 4's two keys meant; neither means theta 10000."""
    old = tiny_config(GQA)
    new = {key: value for key, value in old.items() if key not in ("rope_theta", "rope_scaling")}
    assert hf_config({**new, "rope_parameters": {**ROPE_SCALING, "rope_theta": old["rope_theta"]}}) == hf_config(old)
    plain = hf_config({**new, "rope_scaling": None})
    assert (plain.rope_theta, plain.rope_factors) == (10000.0, None)


@pytest.mark.parametrize(
    "change", [{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, {"rope_scaling": {"rope_type": "llama3"}}]
)
def test_unknown_rope(change: dict[str, Any]) -> None:
    """Scaling that is not Llama 3's, or lacks a number, is an error and never plain RoPE."""
    with pytest.raises(BaseError):
        hf_config({**tiny_config(GQA), **change})


def test_missing_parts(tmp_path: Path) -> None:
    """A configuration or a tensor that is not there is named."""
    folder = write_tiny_hf(tmp_path / "base", GQA, seed=9)
    weights = tiny_weights(GQA, seed=9)
    del weights["model.layers.1.mlp.up_proj.weight"]
    write_safetensors(folder / "model.safetensors", weights)
    with pytest.raises(BaseError, match=r"layers\.1\.mlp\.up_proj"):
        load_hf(folder)
    config = tiny_config(GQA)
    del config["rms_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseError, match="rms_norm_eps"):
        load_hf(folder)


@pytest.mark.parametrize("names", [["../model.safetensors"], [3], None])
def test_an_index_that_leaves_the_folder(tmp_path: Path, names: Any) -> None:
    """Shards are names in the folder, nothing else."""
    folder = write_tiny_hf(tmp_path / "base", GQA, seed=9)
    weight_map = names and {"model.norm.weight": names[0]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BaseError, match="weight_map"):
        load_hf(folder)
