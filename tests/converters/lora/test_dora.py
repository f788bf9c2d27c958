"""dora: the row scales of a DoRA adapter, from the base's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora_converters.lora.adapter import LoraAdapter, Target
from edgelora_converters.lora.dora import is_dora, with_row_scales
from edgelora_converters.weights import base as weights_base
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.errors import AdapterUnsupported
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape
from tests.support.bases import tiny_weights, write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS, delta, dora_adapter, random_adapter
from tests.support.oracles import write_tiny_hf

HEAD_TARGET = Target(None, HEAD)
Q = Target(0, BY_HF["self_attn.q_proj"])


def norms(adapter: LoraAdapter, target: Target, shape: LlamaShape) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """By the definition, on the whole matrix."""
    name = "model.embed_tokens" if target.module == HEAD and shape.tied else target.hf_path
    whole = tiny_weights(shape, seed=7)[f"{name}.weight"] + delta(adapter.pairs[target])
    return np.linalg.norm(whole, axis=1)


@pytest.mark.parametrize("shape", [GQA, WIDE_HEADS], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", ["gguf", "hf"])
def test_row_scales_are_magnitude_over_norm(
    shape: LlamaShape, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every module and the head, by the definition, whatever the base is stored as; read a few rows at a time."""
    monkeypatch.setattr(weights_base, "BLOCK_BYTES", 3000)
    adapter = dora_adapter(shape, seed=3, ranks=(2, 5), targets=[*every_linear(shape), HEAD_TARGET])
    path = tmp_path / "base"
    base = write_tiny_gguf(path, shape, seed=7) if kind == "gguf" else write_tiny_hf(path, shape, seed=7)
    with open_base_weights(base) as weights:
        found = with_row_scales(adapter, weights)
    assert found.row_scales.keys() == adapter.pairs.keys()
    for target, row_scale in found.row_scales.items():
        magnitude = adapter.pairs[target].magnitude
        assert magnitude is not None and row_scale.dtype == np.float32
        np.testing.assert_allclose(row_scale, magnitude / norms(adapter, target, shape), rtol=3e-7)


def every_linear(shape: LlamaShape) -> list[Target]:
    return [Target(layer, module) for layer in range(shape.layers) for module in BY_HF.values()]


def test_an_adapter_without_dora_is_left_alone(tmp_path: Path) -> None:
    """Nothing is read, and pairs without a magnitude beside others get no row scale."""
    plain, mixed = random_adapter(GQA, targets=[Q]), dora_adapter(GQA, targets=[Q])
    other = Target(1, Q.module)
    mixed = replace(mixed, pairs=dict(mixed.pairs) | random_adapter(GQA, targets=[other]).pairs)
    assert not is_dora(plain) and is_dora(mixed)
    with open_base_weights(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=7)) as weights:
        assert with_row_scales(plain, weights) is plain
        assert with_row_scales(mixed, weights).row_scales.keys() == {Q}


def test_what_has_no_row_scale_is_refused(tmp_path: Path) -> None:
    """The embedding, whose columns PEFT scales; and a row that base and delta leave at zero."""
    embedding = dora_adapter(GQA, targets=[Target(None, EMBEDDING)])
    zero = dora_adapter(GQA, targets=[Q])
    pair = zero.pairs[Q]
    rows = tiny_weights(GQA, seed=7)[f"{Q.hf_path}.weight"]
    a = np.zeros((1, GQA.hidden), np.float32)
    a[0] = rows[5]
    b = np.zeros((GQA.q_width, 1), np.float32)
    b[5] = -1.0
    zero = replace(zero, pairs={Q: replace(pair, a=a, b=b, scale=1.0)})
    with open_base_weights(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=7)) as weights:
        for adapter, code in ((embedding, "dora_embedding"), (zero, "dora_zero_row")):
            with pytest.raises(AdapterUnsupported) as caught:
                with_row_scales(adapter, weights)
            assert caught.value.code == code


def test_progress_counts_modules(tmp_path: Path) -> None:
    """Once for each that has a magnitude."""
    seen: list[tuple[int, int]] = []
    adapter = dora_adapter(GQA, targets=[Q, Target(1, Q.module)])
    with open_base_weights(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=7)) as weights:
        with_row_scales(adapter, weights, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
