"""completion: what an adapter takes of its base, for each format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.lora.completion import NOTE, complete, needs_base
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.errors import AdapterUnsupported
from tests.converters.lora.test_token_rows import token_adapter
from tests.support.bases import tiny_config, write_tiny_gguf
from tests.support.lora import GQA, dora_adapter, random_adapter
from tests.support.oracles import write_tiny_hf


@pytest.mark.parametrize(("quantization", "note"), [("F32", "F32, as trained"), ("Q4_0", "Q4_0, dequantized")])
def test_row_scales_for_edgelora_alone(tmp_path: Path, quantization: str, note: str) -> None:
    """With a note of which weights they are of; for MLX and GGUF nothing is read."""
    base = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=7, quantization=quantization)
    adapter = dora_adapter(GQA)
    found = complete(adapter, base, to="mapped")
    assert found.row_scales.keys() == adapter.pairs.keys() and found.metadata[NOTE] == note
    assert complete(adapter, tmp_path, to="gguf") is adapter
    assert complete(found, tmp_path / "gone", to="mapped") is found


def test_norms_of_other_weights(tmp_path: Path) -> None:
    """Of the trained weights behind a quantized base; what tokens replace are the base's own rows all the same."""
    base = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=7, quantization="Q4_0")
    adapter = replace(dora_adapter(GQA), token_rows=token_adapter(GQA).token_rows)
    with open_base_weights(write_tiny_hf(tmp_path / "hf", GQA, seed=7)) as trained:
        found = complete(adapter, base, to="mapped", norms=trained)
    own = complete(adapter, base, to="mapped")
    trained_alone = complete(adapter, tmp_path / "hf", to="mapped")
    for target, scale in found.row_scales.items():
        np.testing.assert_array_equal(scale, trained_alone.row_scales[target])
        assert not np.array_equal(scale, own.row_scales[target])
    (outer,) = found.pairs.keys() - adapter.pairs.keys()
    np.testing.assert_array_equal(found.pairs[outer].b, own.pairs[outer].b)
    assert found.metadata[NOTE].endswith("as trained")


@pytest.mark.parametrize(
    ("adapter", "needs"), [(random_adapter(GQA), False), (dora_adapter(GQA), True), (token_adapter(GQA), True)]
)
def test_which_adapters_need_their_base(adapter: LoraAdapter, needs: bool) -> None:
    """DoRA and trained tokens, and no others."""
    assert needs_base(adapter) is needs


@pytest.mark.parametrize("format", [gguf_writer, mlx_writer, mapped_writer])
def test_tokens_without_their_base_are_refused(tmp_path: Path, format: object) -> None:
    """No writer drops them."""
    with pytest.raises(AdapterUnsupported) as caught:
        format.write(token_adapter(GQA), GQA, tmp_path / "out", provenance={})  # type: ignore[attr-defined]
    assert caught.value.code == "base_needed" and not list(tmp_path.iterdir())


def test_tokens_for_mlx_take_the_mlx_base(tmp_path: Path) -> None:
    """Rows of a GGUF file, quantized perhaps, are not those of the folder that mlx-lm will run."""
    base = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=7)
    with pytest.raises(AdapterUnsupported) as caught:
        complete(token_adapter(GQA), base, to="mlx")
    assert caught.value.code == "base_needed"
    assert not complete(token_adapter(GQA), write_tiny_hf(tmp_path / "hf", GQA, seed=7), to="mlx").token_rows


@pytest.mark.parametrize(
    ("quantization", "fine"),
    [
        (None, True),
        ({"bits": 4, "group_size": 64}, True),
        ({"bits": 3, "group_size": 64}, False),
        ({"bits": 8, "group_size": 64, "model.layers.0.mlp.down_proj": {"bits": 6, "group_size": 64}}, False),
    ],
)
def test_mlx_bases_that_mlx_lm_cannot_run_dora_on(
    tmp_path: Path, quantization: dict[str, object] | None, fine: bool
) -> None:
    """3, 5 and 6 bits, of any module; plain LoRA runs on them."""
    (tmp_path / "config.json").write_text(json.dumps({**tiny_config(GQA), "quantization": quantization}))
    plain = random_adapter(GQA)
    assert complete(plain, tmp_path, to="mlx") is plain
    adapter = dora_adapter(GQA)
    if fine:
        assert complete(adapter, tmp_path, to="mlx") is adapter
        return
    with pytest.raises(AdapterUnsupported) as caught:
        complete(adapter, tmp_path, to="mlx")
    assert caught.value.code == "dora_mlx_bits"
