"""Converted adapters, run by the engines they are made for, give the logits of the adapter that was trained.

llama.cpp against the numpy oracle runs everywhere; real PEFT and real mlx-lm run where they are installed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, Target
from edgelora_converters.lora.dora import with_row_scales
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS, dora_adapter, random_adapter
from tests.support.native import native_logits, native_model
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle, write_tiny_hf

LIMIT = 5e-5
SHAPES = pytest.mark.parametrize("shape", [GQA, WIDE_HEADS], ids=["gqa", "wide-heads-tied"])


def adapters(shape: LlamaShape) -> list[LoraAdapter]:
    """One rank everywhere; ranks and scales of their own; the attention of the last layer alone."""
    whole = random_adapter(shape, seed=1)
    patterns = random_adapter(shape, seed=2, ranks=(1, 8, 3), scales=(2.0, 0.5, 5.6568, -1.0))
    few = random_adapter(shape, seed=3, targets=[t for t in whole.pairs if t.layer == shape.layers - 1][:3])
    return [whole, patterns, few]


@SHAPES
def test_llama_cpp(tmp_path: Path, shape: LlamaShape) -> None:
    """llama.cpp's own adapter path on the written file is the oracle with the source's factors, and not the base."""
    oracle = tiny_oracle(shape, seed=1)
    base = oracle.logits(TOKENS)
    with native_model(write_tiny_gguf(tmp_path / "base.gguf", shape, seed=1)) as model:
        for n, adapter in enumerate(adapters(shape)):
            path = tmp_path / f"{n}.gguf"
            gguf_writer.write(adapter, shape, path, provenance={})
            wanted = oracle.logits(TOKENS, deltas(adapter))
            assert distance(native_logits(model, TOKENS, path), wanted) < LIMIT
            assert distance(base, wanted) > 0.01


def test_llama_cpp_sees_the_row_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the permutation of q and k the logits are far away: the test above can fail."""
    adapter = adapters(GQA)[0]
    monkeypatch.setattr(gguf_writer, "interleave", lambda rows, heads: rows)
    gguf_writer.write(adapter, GQA, tmp_path / "a.gguf", provenance={})
    with native_model(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1)) as model:
        found = native_logits(model, TOKENS, tmp_path / "a.gguf")
    assert distance(found, tiny_oracle(GQA, seed=1).logits(TOKENS, deltas(adapter))) > 0.01


ENDS = [Target(None, EMBEDDING), Target(None, HEAD)]


def test_llama_cpp_with_embedding_and_head(tmp_path: Path) -> None:
    """llama.cpp's own path for them, each alone and with a layer's module beside them."""
    oracle = tiny_oracle(GQA, seed=1)
    base = oracle.logits(TOKENS)
    with native_model(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1)) as model:
        for n, targets in enumerate((ENDS[:1], ENDS[1:], [*ENDS, Target(1, BY_HF["mlp.up_proj"])])):
            adapter = random_adapter(GQA, seed=n, ranks=(3, 5), targets=targets)
            gguf_writer.write(adapter, GQA, tmp_path / f"{n}.gguf", provenance={})
            wanted = oracle.logits(TOKENS, deltas(adapter))
            assert distance(native_logits(model, TOKENS, tmp_path / f"{n}.gguf"), wanted) < LIMIT
            assert distance(base, wanted) > 0.01


@pytest.mark.mlx
@pytest.mark.parametrize("kind", ["dora", "dora, patterns", "dora with the head", "embedding and head"])
def test_mlx_runs_every_part_it_carries(tmp_path: Path, kind: str) -> None:
    """DoRA by mlx-lm's own DoRALinear, with its own norms, and embedding and head: the oracle's logits."""
    utils = pytest.importorskip("mlx_lm.utils")
    from mlx import core
    from mlx_lm.tuner.utils import load_adapters

    base = write_tiny_hf(tmp_path / "base", GQA, seed=1)
    adapter = {
        "dora": dora_adapter(GQA),
        "dora, patterns": dora_adapter(GQA, ranks=(1, 8, 3)),
        "dora with the head": dora_adapter(GQA, targets=[Target(0, BY_HF["self_attn.q_proj"]), ENDS[1]]),
        "embedding and head": random_adapter(GQA, ranks=(3, 5), targets=ENDS),
    }[kind]
    mlx_writer.write(adapter, GQA, tmp_path / "adapter", provenance={})
    model, _ = utils.load_model(base)
    load_adapters(model, str(tmp_path / "adapter"))
    found = np.array(model(core.array([TOKENS]))[0])
    with open_base_weights(base) as weights:
        wanted = tiny_oracle(GQA, seed=1).logits(TOKENS, deltas(with_row_scales(adapter, weights)))
    assert distance(found, wanted) < LIMIT
    assert distance(tiny_oracle(GQA, seed=1).logits(TOKENS), wanted) > 0.01


@pytest.mark.mlx
@SHAPES
def test_mlx(tmp_path: Path, shape: LlamaShape) -> None:
    """mlx-lm's own loader on the written folder gives the oracle's logits."""
    utils = pytest.importorskip("mlx_lm.utils")
    from mlx import core
    from mlx_lm.tuner.utils import load_adapters

    folder = write_tiny_hf(tmp_path / "base", shape, seed=1)
    oracle = tiny_oracle(shape, seed=1)
    for n, adapter in enumerate(adapters(shape)):
        mlx_writer.write(adapter, shape, tmp_path / f"{n}", provenance={})
        model, _ = utils.load_model(folder)
        load_adapters(model, str(tmp_path / f"{n}"))
        found = np.array(model(core.array([TOKENS]))[0])
        assert distance(found, oracle.logits(TOKENS, deltas(adapter))) < LIMIT
