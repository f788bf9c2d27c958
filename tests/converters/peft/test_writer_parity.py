"""Real PEFT loads what is written for it, and gives the same logits. Needs torch and PEFT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora_converters.gguf import source as gguf_source
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.lora.combine import Part, combine
from edgelora_converters.merge.merge import merge
from edgelora_converters.mlx import source as mlx_source
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.oracle.open import load_hf
from edgelora_converters.peft import writer as peft_writer
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape
from tests.support.lora import GQA, WIDE_HEADS, every_target, random_adapter, random_pair
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle, write_tiny_hf
from tests.support.peft_oracle import SEED, loaded_model, peft_logits

# PEFT and transformers deprecate each other's calls; that is theirs to settle.
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

LIMIT = 5e-5


def mixed(shape: LlamaShape) -> LoraAdapter:
    """Ranks and scales of their own, one of them negative, on some modules of some layers."""
    targets = [target for number, target in enumerate(every_target(shape)) if number % 3]
    return random_adapter(shape, seed=4, ranks=(1, 4, 2), scales=(2.0, 0.5, -1.0, 5.6568), targets=targets)


@pytest.mark.parametrize("shape", [GQA, WIDE_HEADS], ids=["gqa", "wide-heads-tied"])
def test_patterns(tmp_path: Path, shape: LlamaShape) -> None:
    """Every module has the rank and scale it had: by way of nothing, of GGUF and of MLX."""
    adapter = mixed(shape)
    gguf_writer.write(adapter, shape, tmp_path / "a.gguf", provenance={})
    mlx_writer.write(adapter, shape, tmp_path / "mlx", provenance={})
    ways = [adapter, gguf_source.read(tmp_path / "a.gguf", shape), mlx_source.read(tmp_path / "mlx", shape)]
    wanted = tiny_oracle(shape, seed=SEED).logits(TOKENS, deltas(adapter))
    for number, way in enumerate(ways):
        peft_writer.write(way, shape, tmp_path / f"{number}", provenance={})
        assert distance(peft_logits(loaded_model(shape, tmp_path / f"{number}")), wanted) < LIMIT


def test_a_combination(tmp_path: Path) -> None:
    """Combined and written, PEFT computes the weighted sum."""
    one, two = mixed(GQA), random_adapter(GQA, seed=5)
    combined = combine([Part("one", one, 0.7), Part("two", two, 0.3)]).adapter
    peft_writer.write(combined, GQA, tmp_path / "a", provenance={})
    wanted = tiny_oracle(GQA, seed=SEED).logits(TOKENS, deltas(combined))
    assert distance(peft_logits(loaded_model(GQA, tmp_path / "a")), wanted) < LIMIT


def test_merged_as_peft_merges(tmp_path: Path) -> None:
    """A DoRA adapter with biases left out, on linear modules: our merged base gives the logits of PEFT's model."""
    rng = np.random.default_rng(2)
    pairs = {}
    for target in (Target(0, BY_HF["self_attn.q_proj"]), Target(1, BY_HF["mlp.down_proj"])):
        pair = random_pair(rng, target, GQA, rank=4, scale=0.5)
        pairs[target] = replace(pair, magnitude=(0.5 + rng.random(len(pair.b))).astype(np.float32))
    adapter = LoraAdapter(pairs, "0" * 64, None)
    peft_writer.write(adapter, GQA, tmp_path / "a", provenance={})
    wanted = peft_logits(loaded_model(GQA, tmp_path / "a"))
    merge([Part("a", adapter, 1.0)], write_tiny_hf(tmp_path / "base", GQA, seed=SEED), tmp_path / "out")
    assert distance(load_hf(tmp_path / "out", dtype="float64").logits(TOKENS), wanted) < LIMIT
    assert distance(tiny_oracle(GQA, seed=SEED).logits(TOKENS), wanted) > 0.01


# PEFT warns that it could not merge a lora_bias into a Llama. Nor could we: see merge_bias.
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
def test_embedding_head_and_biases(tmp_path: Path) -> None:
    """What is written of the embedding and the head merges to what PEFT computes with them; lora_bias is loaded."""
    rng = np.random.default_rng(3)
    pairs = {}
    for module in (EMBEDDING, HEAD):
        a = rng.standard_normal((3, module.in_features(GQA))) * 0.2
        b = rng.standard_normal((module.out_features(GQA), 3)) * 0.2
        pairs[Target(None, module)] = LoraPair(a.astype(np.float32), b.astype(np.float32), 2.0)
    adapter = LoraAdapter(pairs, "0" * 64, None)
    peft_writer.write(adapter, GQA, tmp_path / "a", provenance={})
    wanted = peft_logits(loaded_model(GQA, tmp_path / "a"))
    merge([Part("a", adapter, 1.0)], write_tiny_hf(tmp_path / "base", GQA, seed=SEED), tmp_path / "out")
    assert distance(load_hf(tmp_path / "out", dtype="float64").logits(TOKENS), wanted) < LIMIT

    target = Target(0, BY_HF["mlp.up_proj"])
    biased = replace(random_pair(rng, target, GQA, rank=2, scale=1.0), bias=np.ones(GQA.ffn, np.float32))
    peft_writer.write(LoraAdapter({target: biased}, "0" * 64, None), GQA, tmp_path / "b", provenance={})
    layer = loaded_model(GQA, tmp_path / "b").base_model.model.model.layers[0].mlp.up_proj
    assert layer.lora_B["default"].bias.detach().numpy().tolist() == [1.0] * GQA.ffn
