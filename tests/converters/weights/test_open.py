"""base_weights: every source gives a base's weights under the same names, in the same order, in any blocks."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora_converters.weights.base import BaseWeights, row_blocks
from edgelora_converters.weights.hf import INDEX_NAME
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.errors import BaseError, EdgeloraError, UsageError
from edgelora_models.shape import LlamaShape
from tests.support.adapters import encode, write_safetensors
from tests.support.bases import tiny_config, tiny_weights, write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS
from tests.support.oracles import write_tiny_hf

SHAPES = pytest.mark.parametrize("shape", [GQA, WIDE_HEADS], ids=["gqa", "wide-heads-tied"])
Q1 = "model.layers.1.self_attn.q_proj.weight"


def sharded(folder: Path, shape: LlamaShape, *, seed: int) -> Path:
    """The tiny base in two shards with an index, a buffer of an old release among the tensors."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_config(shape)))
    tensors: dict[str, Any] = dict(tiny_weights(shape, seed=seed))
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)
    weights = list(tensors.items())
    index = {}
    for n, part in enumerate((weights[:7], weights[7:])):
        write_safetensors(folder / f"part-{n}.safetensors", dict(part))
        index |= {name: f"part-{n}.safetensors" for name, _ in part}
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": index}))
    return folder


def check_all(weights: BaseWeights, shape: LlamaShape, *, seed: int) -> None:
    wanted = tiny_weights(shape, seed=seed)
    assert weights.llama == shape
    assert set(weights.names) == wanted.keys()
    assert weights.exact
    for name in weights.names:
        assert weights.shape(name) == wanted[name].shape
        np.testing.assert_array_equal(weights.read(name), wanted[name])


@SHAPES
def test_every_source_gives_the_same_weights(tmp_path: Path, shape: LlamaShape) -> None:
    """A folder, shards and a float32 GGUF are the base they were written from, bit for bit."""
    sources = [
        write_tiny_hf(tmp_path / "whole", shape, seed=5),
        sharded(tmp_path / "shards", shape, seed=5),
        write_tiny_gguf(tmp_path / "base.gguf", shape, seed=5),
    ]
    for source in sources:
        with open_base_weights(source) as weights:
            check_all(weights, shape, seed=5)
            assert weights.precision == "F32"


@settings(deadline=None, max_examples=25)
@given(start=st.integers(0, 191), count=st.integers(1, 192))
def test_rows_are_slices_of_the_whole(tmp_path_factory: pytest.TempPathFactory, start: int, count: int) -> None:
    """Any block of rows is that block of `read`, also within and across the interleaved heads of a GGUF file."""
    folder = tmp_path_factory.getbasetemp() / "rows"
    folder.mkdir(exist_ok=True)
    gguf = folder / "base.gguf"
    if not gguf.exists():
        write_tiny_gguf(gguf, WIDE_HEADS, seed=1, quantization="Q8_0")
        write_tiny_hf(folder / "hf", WIDE_HEADS, seed=1)
    stop = min(start + count, 192)
    for source in (gguf, folder / "hf"):
        with open_base_weights(source) as weights:
            np.testing.assert_array_equal(weights.rows(Q1, start, stop), weights.read(Q1)[start:stop])


def test_blocks_of_rows_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`row_blocks` gives every row once, in order, and no block above the bound."""
    monkeypatch.setattr("edgelora_converters.weights.base.BLOCK_BYTES", 4 * GQA.hidden * 7)
    monkeypatch.setattr("edgelora_converters.weights.gguf.BLOCK_BYTES", 4 * GQA.hidden * 5)
    with open_base_weights(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1)) as weights:
        blocks = list(row_blocks(weights, Q1))
        assert [start for start, _ in blocks] == list(range(0, 64, 7))
        assert max(len(block) for _, block in blocks) == 7
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), weights.read(Q1))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_narrow_folders_are_exact(tmp_path: Path, dtype: str) -> None:
    """Sixteen-bit training precisions count as trained, and are widened without change."""
    folder = write_tiny_hf(tmp_path, GQA, seed=6)
    write_safetensors(folder / "model.safetensors", tiny_weights(GQA, seed=6), dtype=dtype)
    with open_base_weights(folder) as weights:
        assert (weights.exact, weights.precision) == (True, dtype)
        assert encode(weights.read(Q1), dtype) == encode(tiny_weights(GQA, seed=6)[Q1], dtype)


@pytest.mark.parametrize(("kind", "error"), [("Q8_0", 0.01), ("Q4_0", 0.2)])
def test_quantized_files_say_so(tmp_path: Path, kind: str, error: float) -> None:
    """Dequantized weights are near the trained ones and marked as inexact."""
    with open_base_weights(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=6, quantization=kind)) as weights:
        assert (weights.exact, weights.precision) == (False, kind)
        wanted = tiny_weights(GQA, seed=6)[Q1]
        assert 0 < np.linalg.norm(weights.read(Q1) - wanted) / np.linalg.norm(wanted) < error


def test_f16_files_are_exact(tmp_path: Path) -> None:
    """An F16 GGUF holds what an F16 folder holds."""
    with open_base_weights(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=6, quantization="F16")) as weights:
        assert (weights.exact, weights.precision) == (True, "F16")
        np.testing.assert_array_equal(weights.read(Q1), tiny_weights(GQA, seed=6)[Q1].astype(np.float16))


def test_unknown_names_are_errors(tmp_path: Path) -> None:
    """A name the base has not is a BaseError from every method: a tied base has no head of its own."""
    for source in (
        write_tiny_hf(tmp_path / "hf", WIDE_HEADS, seed=1),
        write_tiny_gguf(tmp_path / "b.gguf", WIDE_HEADS, seed=1),
    ):
        with open_base_weights(source) as weights:
            for call in (weights.shape, weights.read, partial(weights.rows, start=0, stop=1)):
                with pytest.raises(BaseError, match=r"lm_head"):
                    call("lm_head.weight")


def refused(source: Path) -> EdgeloraError:
    with pytest.raises((BaseError, UsageError)) as caught, open_base_weights(source):
        pass
    return caught.value


def test_bases_that_are_none(tmp_path: Path) -> None:
    """What is missing, misshapen, packed or twice is named before any weight is read."""
    assert refused(tmp_path / "none").code == "path_not_found"
    folder = write_tiny_hf(tmp_path / "hf", GQA, seed=1)
    weights = tiny_weights(GQA, seed=1)
    write_safetensors(folder / "model.safetensors", weights | {Q1: weights[Q1][:3]})
    assert "[3, 64]" in refused(folder).what
    write_safetensors(folder / "model.safetensors", {n: w for n, w in weights.items() if n != Q1})
    assert f"{Q1} is missing" in refused(folder).what
    write_safetensors(folder / "model.safetensors", weights)
    write_safetensors(folder / "model-2.safetensors", {Q1: weights[Q1]})
    assert "stands in two files" in refused(folder).what
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert "there is no model.safetensors" in refused(folder).what


def test_not_finite_weights_are_refused(tmp_path: Path) -> None:
    """NaN in a base is an error where it is read, from either source."""
    folder = write_tiny_hf(tmp_path / "hf", GQA, seed=1)
    weights = tiny_weights(GQA, seed=1)
    weights[Q1][3, 3] = np.nan
    write_safetensors(folder / "model.safetensors", weights)
    gguf = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1)
    value = tiny_weights(GQA, seed=1)[Q1][3, 3].tobytes()
    gguf.write_bytes(gguf.read_bytes().replace(value, b"\0\0\xc0\x7f", 1))
    for source in (folder, gguf):
        with open_base_weights(source) as opened:
            with pytest.raises(BaseError, match="NaN"):
                opened.read(Q1)
            opened.read("model.norm.weight")
