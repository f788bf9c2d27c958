"""Adapters written as PEFT saves them: round trips from every format, and what PEFT could not say."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from edgelora_converters.convert.convert import write_verified
from edgelora_converters.errors import ConversionFailed
from edgelora_converters.gguf import source as gguf_source
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.mapped import source as mapped_source
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import source as mlx_source
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft import writer as peft_writer
from edgelora_converters.peft.folder import FILES, WEIGHTS_NAME
from edgelora_converters.tensors.safetensors_reader import open_safetensors
from edgelora_models.errors import AdapterIncompatible, AdapterUnsupported
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.modules import BY_HF
from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_peft
from tests.support.lora import GQA, every_target, random_adapter, shaped_adapters

Q = Target(0, BY_HF["self_attn.q_proj"])


def written(adapter: LoraAdapter, shape: LlamaShape, folder: Path) -> LoraAdapter:
    peft_writer.write(adapter, shape, folder, provenance={})
    return peft_reader.read(folder, shape)


def same_factors(one: LoraAdapter, other: LoraAdapter) -> bool:
    return one.pairs.keys() == other.pairs.keys() and all(
        np.array_equal(pair.a, other.pairs[target].a) and np.array_equal(pair.b, other.pairs[target].b)
        for target, pair in one.pairs.items()
    )


@settings(deadline=None, max_examples=25)
@given(shaped_adapters())
def test_what_is_written_is_read(made: tuple[LlamaShape, LoraAdapter]) -> None:
    """Ranks, scales and layers of any mixture come back: the factors as they are, where PEFT can say the scale."""
    shape, adapter = made
    with tempfile.TemporaryDirectory() as folder:
        back = written(adapter, shape, Path(folder) / "peft")
    assert back.pairs.keys() == adapter.pairs.keys()
    for target, pair in adapter.pairs.items():
        found = back.pairs[target]
        np.testing.assert_array_equal(found.a, pair.a)
        if pair.scale > 0:
            np.testing.assert_array_equal(found.b, pair.b)
            assert found.scale == pytest.approx(pair.scale, rel=1e-15)
        else:
            np.testing.assert_array_equal(found.b, pair.folded_b())
            assert found.scale == 1.0


@settings(deadline=None, max_examples=15)
@given(shaped_adapters())
def test_by_way_of_every_format(made: tuple[LlamaShape, LoraAdapter]) -> None:
    """PEFT to mapped, GGUF or MLX and back: mapped keeps the factors, the others those with the scale folded into B."""
    shape, adapter = made
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mapped_writer.write(adapter, shape, folder / "a.lora", provenance={})
        gguf_writer.write(adapter, shape, folder / "a.gguf", provenance={})
        mlx_writer.write(adapter, shape, folder / "mlx", provenance={})
        kept = mapped_source.read(folder / "a.lora", shape)
        folded = [gguf_source.read(folder / "a.gguf", shape), mlx_source.read(folder / "mlx", shape)]
        back = [written(one, shape, folder / f"{n}") for n, one in enumerate([kept, *folded])]
    assert same_factors(kept, adapter)
    # A scale that PEFT can say is kept, in float32 as the mapped layout stores it.
    single = {t: replace(p, scale=float(np.float32(p.scale))) for t, p in adapter.pairs.items()}
    sayable = {t: p if p.scale > 0 else _folded(p) for t, p in single.items()}
    assert same_factors(back[0], replace(adapter, pairs=sayable))
    for target, pair in back[0].pairs.items():
        assert pair.scale == pytest.approx(sayable[target].scale, rel=1e-15)
    for found in back[1:]:
        assert same_factors(found, replace(adapter, pairs={t: _folded(p) for t, p in adapter.pairs.items()}))
        assert {pair.scale for pair in found.pairs.values()} == {1.0}


def _folded(pair: LoraPair) -> LoraPair:
    return LoraPair(pair.a, pair.folded_b(), 1.0)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_mapped_and_back_is_the_same_file(tmp_path: Path, dtype: str) -> None:
    """Factors stay in as few bits as they came in, and the scale is what it was."""
    source = write_peft(tmp_path / "source", GQA, dtype=dtype, rank_pattern={"v_proj": 2}, alpha_pattern={"k_proj": 3})
    adapter = peft_reader.read(source, GQA)
    mapped_writer.write(adapter, GQA, tmp_path / "a.lora", provenance={})
    peft_writer.write(mapped_source.read(tmp_path / "a.lora", GQA), GQA, tmp_path / "back", provenance={})
    with (
        open_safetensors(source / WEIGHTS_NAME) as one,
        open_safetensors(tmp_path / "back" / WEIGHTS_NAME) as two,
    ):
        sizes = [{name: info.nbytes for name, info in file.tensors.items()} for file in (one, two)]
        assert sizes[0] == sizes[1]
    back = peft_reader.read(tmp_path / "back", GQA)
    assert same_factors(back, adapter)
    assert {t: p.scale for t, p in back.pairs.items()} == {t: p.scale for t, p in adapter.pairs.items()}


def test_the_configuration_is_short_where_it_can_be(tmp_path: Path) -> None:
    """One rank and scale on whole modules: r, lora_alpha and short names, and no patterns."""
    peft_writer.write(random_adapter(GQA, ranks=(4,), scales=(2.0,)), GQA, tmp_path / "a", provenance={})
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_dora"], config["lora_bias"]) == (4, 8, False, False)
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    assert set(config["target_modules"]) == {module.rpartition(".")[2] for module in BY_HF}


def test_patterns_are_full_paths(tmp_path: Path) -> None:
    """What differs from the most common rank and alpha stands under its own path; so do modules of some layers."""
    targets = [t for t in every_target(GQA) if t.layer == 0][:4]
    adapter = random_adapter(GQA, ranks=(4, 4, 4, 2), scales=(2.0, 2.0, 0.25, 4.0), targets=targets)
    peft_writer.write(adapter, GQA, tmp_path / "a", provenance={})
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {targets[3].hf_path: 2}
    assert config["alpha_pattern"] == {targets[2].hf_path: 1}
    assert config["target_modules"] == sorted(target.hf_path for target in targets)


def test_the_same_bytes(tmp_path: Path) -> None:
    """The same adapter gives the same files, provenance included."""
    adapter = random_adapter(GQA, ranks=(4, 2), scales=(1.0, 3.0))
    for name in ("one", "two"):
        peft_writer.write(adapter, GQA, tmp_path / name, provenance={"base_fingerprint": "f"})
    for file in FILES:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with open_safetensors(tmp_path / "one" / WEIGHTS_NAME) as file:
        assert file.metadata["edgelora.base_fingerprint"] == "f"
        assert file.metadata["edgelora.source_digest"] == adapter.source_digest


def test_an_invocation_is_kept(tmp_path: Path) -> None:
    """An aLoRA stays one, in the form PEFT activates."""
    late = replace(random_adapter(GQA), invocation=(7, 9))
    assert written(late, GQA, tmp_path / "a").invocation == (7, 9)


@pytest.mark.parametrize("mutation", ["scale", "bits"])
def test_the_gate_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    """A folder with another alpha, or one bit of a factor changed, is never published."""
    config, tensors = peft_writer._config, peft_writer._tensors
    if mutation == "scale":
        monkeypatch.setattr(peft_writer, "_config", lambda *some: config(*some) | {"alpha_pattern": {"q_proj": 9}})
    else:
        nudge = {t: replace(p, a=np.nextafter(p.a, 1)) for t, p in random_adapter(GQA, targets=[Q]).pairs.items()}
        monkeypatch.setattr(peft_writer, "_tensors", lambda _, token_rows: tensors(nudge, token_rows))
    base = BaseFingerprint("llama", GQA, vocabulary="", template="")
    with pytest.raises(ConversionFailed):
        write_verified(random_adapter(GQA, targets=[Q]), tmp_path / "out", to="peft", base=base)
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path: Path) -> None:
    """DoRA on some modules only, and factors of another base; nothing is left behind."""
    adapter = random_adapter(GQA)
    pair = adapter.pairs[Q]
    mixed = {**adapter.pairs, Q: replace(pair, magnitude=np.ones(len(pair.b), np.float32))}
    with pytest.raises(AdapterUnsupported) as caught:
        peft_writer.write(replace(adapter, pairs=mixed), GQA, tmp_path / "a", provenance={})
    assert caught.value.code == "peft_mixed_dora"
    with pytest.raises(AdapterIncompatible):
        peft_writer.write(adapter, replace(GQA, hidden=32), tmp_path / "a", provenance={})
    assert not list(tmp_path.iterdir())
