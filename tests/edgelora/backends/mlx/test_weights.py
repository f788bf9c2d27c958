"""Bases as mlx-lm stores them: every packing gives the oracle's logits, and what is unsound is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx")

import mlx.core as mx

from edgelora.backends.base import Applied
from edgelora.backends.mlx.open import open_mlx
from edgelora.backends.mlx.options import MlxOptions
from edgelora.core.errors import BaseError, Cancelled
from edgelora_converters.lora.dora import with_row_scales
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.oracle.llama import NumpyLlama, Part
from edgelora_converters.oracle.open import hf_config
from edgelora_models.shape import LlamaShape
from tests.edgelora.backends.mlx.conftest import EXACT, opened
from tests.support.bases import CONTEXT_LENGTH, MIN_VOCAB, tiny_config
from tests.support.checkpoints import edit
from tests.support.lora import GQA, WIDE_HEADS, dora_adapter
from tests.support.mlx import pack, write_tiny_mlx
from tests.support.oracles import deltas, distance
from tests.support.steps import Lane, generate, once
from tests.support.weights import ArrayWeights

pytestmark = pytest.mark.mlx

PACKED = LlamaShape(layers=2, hidden=128, heads=4, kv_heads=2, head_dim=32, ffn=160, vocab=MIN_VOCAB + 2, tied=False)
"""Rows of 160 go into groups of 32, not of 64."""
TOKENS = [1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("bits", "group", "mode"),
    [(n, 64, "affine") for n in (2, 3, 4, 5, 6, 8)]
    + [(4, 32, "affine"), (4, 32, "mxfp4"), (4, 16, "nvfp4"), (8, 32, "mxfp8")],
)
def test_every_packing_and_dora_on_it(tmp_path: Path, bits: int, group: int, mode: str) -> None:
    """The dequantized weights' logits, alone and with a DoRA adapter, whose norms are of those weights."""
    base = write_tiny_mlx(tmp_path / "base", PACKED, seed=1)
    weights = pack(base, bits=bits, group=group, mode=mode)
    adapter = dora_adapter(PACKED, seed=2)
    mlx_writer.write(adapter, PACKED, tmp_path / "adapter", provenance={})
    exact = with_row_scales(adapter, ArrayWeights(PACKED, weights))
    oracle = NumpyLlama(weights, hf_config(tiny_config(PACKED)), dtype="float64")
    with opened(base, PACKED) as backend:
        backend.attach(0, backend.load(tmp_path / "adapter"))
        assert distance(once(backend, TOKENS, None), oracle.logits(TOKENS)[-1]) < 5e-5
        wanted = oracle.logits(TOKENS, [Part(deltas(exact), 1.0, 0)])[-1]
        assert distance(once(backend, TOKENS, 0), wanted) < 5e-5


def test_some_matrices_packed_and_some_not(tmp_path: Path) -> None:
    """Each by its own shapes, as mlx-lm's mixed recipes store them; the tied head with its embedding."""
    base = write_tiny_mlx(tmp_path / "base", replace(PACKED, tied=True), seed=1)
    pack(base, bits=8, group=64, only="embed_tokens")
    weights = pack(base, bits=4, group=32, only="mlp")
    with opened(base, replace(PACKED, tied=True)) as backend:
        found = once(backend, TOKENS, None)
    with opened(
        write_tiny_mlx(tmp_path / "plain", replace(PACKED, tied=True), seed=1), replace(PACKED, tied=True)
    ) as b:
        assert 1e-4 < distance(found, once(b, TOKENS, None)) < 0.5
    assert len(weights) > 0


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_sixteen_bits(tmp_path: Path, dtype: str) -> None:
    """Activations, keys and values in the type of the weights: near the oracle, and a mixed batch as each alone."""
    base = write_tiny_mlx(tmp_path / "base", GQA, seed=7, dtype=dtype)
    with opened(base) as backend:
        for slot in range(2):
            mlx_writer.write(dora_adapter(GQA, seed=slot), GQA, tmp_path / f"{slot}", provenance={})
            backend.attach(slot, backend.load(tmp_path / f"{slot}"))
        alone = [generate(backend, [Lane(5, slot, list(TOKENS))], steps=5)[0] for slot in (1, 0, None)]
        lanes = [Lane(n, slot, list(TOKENS)) for n, slot in enumerate((1, 0, None))]
        assert generate(backend, lanes, steps=5) == alone
        whole = once(backend, TOKENS, 0)
    with opened(write_tiny_mlx(tmp_path / "f32", GQA, seed=7)) as exact:
        exact.attach(0, exact.load(tmp_path / "0"))
        assert distance(whole, once(exact, TOKENS, 0)) < 5e-2


def test_shards(tmp_path: Path, tiny: Path) -> None:
    """Several files with an index are one base."""
    base = write_tiny_mlx(tmp_path / "base", GQA, seed=7)
    found = dict(mx.load(str(base / "model.safetensors")))
    (base / "model.safetensors").unlink()
    names = sorted(found)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        mx.save_safetensors(str(base / file), {name: found[name] for name in part})
        index |= dict.fromkeys(part, file)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with opened(base) as sharded, opened(tiny) as whole:
        assert np.array_equal(once(sharded, TOKENS, None), once(whole, TOKENS, None))


def _without(name: str) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        found = dict(mx.load(str(base / "model.safetensors")))
        del found[name]
        mx.save_safetensors(str(base / "model.safetensors"), found)

    return change


def _cut(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])


def _packed_oddly(base: Path) -> None:
    pack(base, bits=4, group=64, only="q_proj")
    edit(base / "config.json", quantization={"group_size": 64, "bits": 4, "mode": "mxfp4"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight is missing"),
        (_without("lm_head.weight"), "lm_head.weight is missing"),
        (_without("model.norm.weight"), "model.norm.weight is missing"),
        (_cut, "model.safetensors"),
        (_packed_oddly, "mode mxfp4"),
        (lambda base: (base / "model.safetensors").unlink(), "model.safetensors"),
        (lambda base: (base / "tokenizer.json").unlink(), "there is no tokenizer.json"),
        (lambda base: edit(base / "config.json", rms_norm_eps="x"), "rms_norm_eps"),
        (lambda base: edit(base / "config.json", rope_traditional=True), "rope_traditional"),
        (lambda base: edit(base / "config.json", hidden_act="gelu"), "gelu"),
        (lambda base: edit(base / "config.json", layer_types=["sliding_attention"] * 2), "sliding_attention"),
        (lambda base: edit(base / "config.json", rope_scaling={"rope_type": "yarn", "factor": 2}), "yarn"),
        (lambda base: edit(base / "config.json", attention_bias=True), "attention_bias"),
        (lambda base: edit(base / "config.json", num_hidden_layers=3), "layers 3 instead of 2"),
    ],
)
def test_bases_that_cannot_be_opened(tmp_path: Path, change: Callable[[Path], None], words: str) -> None:
    """What is missing, damaged, or not computed is named; nothing is run in its place."""
    base = write_tiny_mlx(tmp_path / "base", GQA, seed=7)
    change(base)
    with pytest.raises(BaseError, match=words) as caught:
        open_mlx(base, shape=GQA, options=EXACT)
    assert caught.value.remedy


def test_no_folder_is_no_base(tmp_path: Path) -> None:
    """Said in words."""
    with pytest.raises(BaseError):
        open_mlx(tmp_path / "none", shape=GQA, options=EXACT)


def test_progress_runs_to_one_and_can_end_the_load(tiny: Path) -> None:
    """Fractions that only grow; what the callback raises comes out."""
    seen: list[float] = []
    open_mlx(tiny, shape=GQA, progress=seen.append).close()
    assert seen == sorted(seen) and seen[-1] == 1.0

    def cancel(_fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        open_mlx(tiny, shape=GQA, progress=cancel)


@pytest.mark.parametrize(("asked", "cells", "expected"), [(9999, 1024, CONTEXT_LENGTH), (300, 200, 200)])
def test_the_context_is_never_more_than_there_is(tiny: Path, asked: int, cells: int, expected: int) -> None:
    """Neither more than the base was made for, nor than the KV holds; two contexts of KV where nothing is said."""
    with opened(tiny, options=MlxOptions(context_length=asked, kv_cells=cells)) as backend:
        assert backend.capabilities.context_length == expected
    with opened(tiny, options=MlxOptions(context_length=100)) as backend:
        assert backend.capabilities.kv_cells == 200


def test_a_tied_head_and_wide_heads(tmp_path: Path) -> None:
    """q wider than the stream, an odd number of key/value heads, the head the embedding's own."""
    base = write_tiny_mlx(tmp_path / "base", WIDE_HEADS, seed=2)
    mlx_writer.write(dora_adapter(WIDE_HEADS, seed=1), WIDE_HEADS, tmp_path / "a", provenance={})
    with opened(base, WIDE_HEADS) as backend:
        backend.attach(0, backend.load(tmp_path / "a"))
        lane = Lane(0, None, [1, 2, 3], (Applied(0, 0.5),))
        assert generate(backend, [lane], steps=3)
        assert distance(once(backend, [1, 2], 0), once(backend, [1, 2], None)) > 0.02
