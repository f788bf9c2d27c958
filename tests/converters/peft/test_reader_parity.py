"""The chain that matters: an adapter trained with real PEFT, converted, is the same adapter. Needs torch and PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgelora_converters.convert.convert import convert
from edgelora_converters.peft import reader as peft_reader
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.shape import LlamaShape
from tests.support.adapters import ALL_MODULES
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS
from tests.support.native import native_logits, native_model
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle
from tests.support.peft_oracle import SEED, peft_logits, peft_model

# PEFT and transformers deprecate each other's calls; that is theirs to settle.
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

LIMIT = 5e-5
CONFIGS: dict[str, dict[str, Any]] = {
    "vanilla": {"r": 8, "lora_alpha": 16, "target_modules": list(ALL_MODULES)},
    "rslora": {"r": 8, "lora_alpha": 16, "use_rslora": True, "target_modules": list(ALL_MODULES)},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"],
        "rank_pattern": {"q_proj": 8, r"layers\.1\.self_attn\.k_proj": 2},
        "alpha_pattern": {"v_proj": 3, r".*\.1\.mlp\.down_proj": 40},
    },
    "attention of one layer": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["q_proj", "k_proj", "o_proj"],
        "layers_to_transform": [1],
    },
}


@pytest.mark.parametrize("shape", [GQA, WIDE_HEADS], ids=["gqa", "wide-heads-tied"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_peft_is_the_oracle_is_llama_cpp(tmp_path: Path, shape: LlamaShape, config: dict[str, Any]) -> None:
    """PEFT in float32, the oracle on the adapter as read, and llama.cpp on the converted file give the same logits."""
    wanted = peft_logits(peft_model(shape, config, tmp_path / "peft"))
    oracle = tiny_oracle(shape, seed=SEED)
    adapter = peft_reader.read(tmp_path / "peft", shape)
    assert distance(oracle.logits(TOKENS, deltas(adapter)), wanted) < LIMIT
    assert distance(oracle.logits(TOKENS), wanted) > 0.01

    base = BaseFingerprint("llama", shape, vocabulary="", template="")
    convert(tmp_path / "peft", tmp_path / "a.gguf", to="gguf", base=base)
    with native_model(write_tiny_gguf(tmp_path / "base.gguf", shape, seed=SEED)) as model:
        assert distance(native_logits(model, TOKENS, tmp_path / "a.gguf"), wanted) < LIMIT
