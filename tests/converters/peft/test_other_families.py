"""Tensor names of other architectures, each by its family's name; a Llama's are none of them."""

from __future__ import annotations

import pytest

from edgelora_converters.peft.other_families import family_of
from edgelora_models.modules import LINEAR_MODULES


@pytest.mark.parametrize(("path", "family"), [
    ("transformer.h.3.attn.c_attn", "GPT-2"),
    ("transformer.h.3.mlp.w1", "first Qwen"),
    ("transformer.h.3.attn.q_proj", "GPT-J"),
    ("transformer.h.3.self_attention.query_key_value", "Falcon"),
    ("gpt_neox.layers.3.attention.query_key_value", "GPT-NeoX"),
    ("transformer.blocks.3.attn.Wqkv", "MPT"),
    ("model.layers.3.self_attn.qkv_proj", "Phi-3"),
    ("model.layers.3.mlp.fc1", "Phi"),
    ("model.layers.3.block_sparse_moe.experts.0.w1", "Mixtral"),
    ("model.layers.3.mlp.experts.0.gate_proj", "experts"),
    ("model.layers.3.mlp.shared_expert.up_proj", "experts"),
    ("model.layers.3.linear_attn.in_proj_qkvz", "linear attention"),
    ("model.decoder.layers.3.self_attn.q_proj", "OPT"),
    ("bert.encoder.layer.3.attention.self.query", "BERT"),
])  # fmt: skip
def test_families(path: str, family: str) -> None:
    """As PEFT writes their adapters."""
    assert family in (family_of(f"base_model.model.{path}.lora_A.weight") or "")


@pytest.mark.parametrize("module", [module.hf for module in LINEAR_MODULES])
def test_a_llama_is_none_of_them(module: str) -> None:
    """Whatever is wrong with such a name is something else."""
    assert family_of(f"base_model.model.model.layers.3.{module}.lora_C.weight") is None
