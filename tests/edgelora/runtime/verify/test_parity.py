"""Figures of an adapter on a base: the runtime beside the oracle, and what an adapter that is not the oracle's does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora.runtime.verify.parity import Parity, figures, measure
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.mapped import writer as mapped_writer
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, random_adapter
from tests.support.oracles import write_tiny_hf

PLAIN = random_adapter(GQA, seed=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("base") / "base.gguf", GQA, seed=1)


def measured(
    base: Path,
    out: Path,
    *,
    adapter: LoraAdapter = PLAIN,
    written: LoraAdapter | None = None,
    weights: Path | None = None,
) -> Parity:
    """`adapter` by the oracle against `written` by the runtime."""
    path = out / f"a{mapped_writer.SUFFIX}"
    mapped_writer.write(written or adapter, GQA, path, provenance={})
    return measure(base, weights or base, adapter, path, shape=GQA, prompts=["one", "another"], tokens=24, threads=1)


def test_an_exact_base(base: Path, tmp_path: Path) -> None:
    """On an F32 base nothing but float32's rounding is left, and the adapter is seen by both."""
    parity = measured(base, tmp_path)
    assert parity.passed and parity.visible
    assert parity.positions == 48
    assert parity.adapter.kl < 1e-8 and parity.base.kl < 1e-8
    assert parity.adapter.top1 == parity.base.top1 == 1.0
    assert parity.effect == pytest.approx(parity.runtime_effect, rel=1e-3) and parity.effect > 0.01
    assert parity.changed > 0


def test_a_quantized_base(tmp_path: Path) -> None:
    """The base's own quantization of activations is seen without the adapter too, and is what the limit is made of."""
    base = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1, quantization="Q8_0")
    parity = measured(base, tmp_path)
    assert parity.passed
    assert 1e-7 < parity.base.kl < 1e-2


def test_a_hugging_face_folder_as_the_oracle_s(base: Path, tmp_path: Path) -> None:
    """The weights the GGUF file was made of give the same figures as the file's own."""
    folder = write_tiny_hf(tmp_path / "hf", GQA, seed=1)
    one, other = measured(base, tmp_path, weights=folder), measured(base, tmp_path)
    assert one.effect == pytest.approx(other.effect, rel=1e-5) and one.runtime_effect == other.runtime_effect
    assert one.passed and one.adapter.kl < 1e-8


def test_an_alora(base: Path, tmp_path: Path) -> None:
    """Its invocation stands behind each prompt, and it acts from there on: of 2 x 26 positions on 2 x 2."""
    parity = measured(base, tmp_path, adapter=replace(PLAIN, invocation=(7, 9)))
    assert parity.passed and parity.positions == 52
    assert parity.effect < measured(base, tmp_path).effect / 2
    assert parity.effect > 0


def scaled(adapter: LoraAdapter, by: float) -> LoraAdapter:
    return replace(adapter, pairs={t: replace(p, scale=p.scale * by) for t, p in adapter.pairs.items()})


@pytest.mark.parametrize("written", [scaled(PLAIN, 0.5), scaled(PLAIN, 1.01), random_adapter(GQA, seed=2)])
def test_another_adapter_fails(base: Path, tmp_path: Path, written: LoraAdapter) -> None:
    """Half the scale, a hundredth more of it, other factors: more than the limit."""
    parity = measured(base, tmp_path, written=written)
    assert not parity.passed
    assert parity.base.kl < 1e-8


def test_an_untrained_adapter(base: Path, tmp_path: Path) -> None:
    """It is right, and it is said that it changes nothing."""
    parity = measured(base, tmp_path, adapter=scaled(PLAIN, 0.0))
    assert parity.passed and not parity.visible
    assert parity.effect == parity.runtime_effect == parity.changed == 0.0


def test_a_gguf_adapter(base: Path, tmp_path: Path) -> None:
    """What llama.cpp is given is run as well as edgelora's own layout."""
    gguf_writer.write(PLAIN, GQA, tmp_path / "a.gguf", provenance={})
    parity = measure(base, base, PLAIN, tmp_path / "a.gguf", shape=GQA, prompts=["one"], tokens=9, threads=1)
    assert parity.passed and parity.visible


def test_the_figures() -> None:
    """KL in nats, of the oracle's distribution; shares of positions."""

    def logits(*rows: Sequence[float]) -> list[np.ndarray]:
        return [np.log(np.array(rows))]

    ours, alone = logits([0.5, 0.5], [0.9, 0.1]), logits([0.5, 0.5], [0.5, 0.5])
    oracle, oracle_alone = logits([0.5, 0.5], [0.1, 0.9]), logits([0.5, 0.5], [0.6, 0.4])
    parity = figures(ours, alone, oracle, oracle_alone)
    apart = 0.1 * np.log(0.1 / 0.9) + 0.9 * np.log(0.9 / 0.1)
    assert parity.adapter.kl == pytest.approx(apart / 2) and parity.adapter.kl_max == pytest.approx(apart)
    assert (parity.adapter.top1, parity.base.top1, parity.changed) == (0.5, 1.0, 0.5)
    assert parity.effect == pytest.approx((0.1 * np.log(0.1 / 0.6) + 0.9 * np.log(0.9 / 0.4)) / 2)
    assert not parity.passed
