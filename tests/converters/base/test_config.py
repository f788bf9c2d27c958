"""config.json of a checkpoint against the closed schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgelora_converters.base.config import read_base_config
from edgelora_models.errors import BaseError
from tests.support.bases import tiny_config
from tests.support.lora import GQA


def written(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(tiny_config(GQA) | changes))
    return folder


def test_a_plain_llama(tmp_path: Path) -> None:
    """What has no effect is let through: training's keys, and keys of others that are empty."""
    harmless = {
        "attention_dropout": 0.1,
        "pretraining_tp": 2,
        "transformers_version": "4.45",
        "torch_dtype": "bfloat16",
        "sliding_window": None,
        "quantization_config": None,
        "layer_types": ["full_attention"] * 2,
        "rope_interleaved": False,
        "something_new": 0,
        "eos_token_id": [1, 2],
    }
    config = read_base_config(written(tmp_path, **harmless))
    assert (config.shape, config.norm_epsilon, config.context_length) == (GQA, 1e-5, 512)
    assert config.rope.kind == "llama3"


def test_every_odd_key_is_named_at_once(tmp_path: Path) -> None:
    """One error lists all that a plain Llama has not."""
    odd = {
        "attention_bias": True,
        "mlp_bias": True,
        "sliding_window": 4096,
        "quantization_config": {"quant_method": "fp8"},
        "hidden_act": "gelu",
        "logit_scale": 0.1,
        "auto_map": {"AutoModel": "own.Own"},
        "layer_types": ["sliding_attention", "full_attention"],
        "architectures": ["LlamaForSequenceClassification"],
    }
    with pytest.raises(BaseError) as caught:
        read_base_config(written(tmp_path, **odd))
    assert caught.value.code == "base_unsupported"
    assert all(repr(key) in caught.value.what for key in odd)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model_type": "mistral"}, "base_not_llama"),
        ({"hidden_size": None}, "base_corrupt"),
        ({"num_key_value_heads": 3}, "base_corrupt"),
        ({"rms_norm_eps": "small"}, "base_corrupt"),
        ({"rms_norm_eps": 2.0}, "base_corrupt"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "base_rope"),
        ({"layer_types": 5}, "base_unsupported"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    """Each kind of fault has its stable code."""
    with pytest.raises(BaseError) as caught:
        read_base_config(written(tmp_path, **changes))
    assert caught.value.code == code


def test_what_is_left_out(tmp_path: Path) -> None:
    """Keys that transformers leaves out have LlamaConfig's defaults."""
    fields = tiny_config(GQA)
    for key in ("num_key_value_heads", "head_dim", "tie_word_embeddings", "rms_norm_eps", "hidden_act"):
        del fields[key]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    config = read_base_config(tmp_path)
    assert (config.shape.kv_heads, config.shape.head_dim, config.shape.tied) == (4, 16, False)
    assert config.norm_epsilon == 1e-6
