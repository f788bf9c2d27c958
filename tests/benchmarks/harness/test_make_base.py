"""The benchmark's made-up base: real shapes, sane numbers, loadable, and timed by the decode benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from benchmarks.harness import make_base
from benchmarks.harness.blocks import q4_k, q6_k
from benchmarks.throughput import decode
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header
from edgelora_models.shape import LlamaShape
from tests.support.steps import distance, once

SMALL = LlamaShape(layers=3, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=600, tied=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_base.write_base(tmp_path / "base.gguf", SMALL)
    (tmp_path / "adapters").mkdir()
    for number in range(2):
        make_base.write_adapter(tmp_path / "adapters" / f"{number}.gguf", SMALL, number, 4)
    return tmp_path


@pytest.mark.parametrize(("make", "kind"), [(q4_k, GGMLQuantizationType.Q4_K), (q6_k, GGMLQuantizationType.Q6_K)])
def test_blocks_are_sane_weights(make: object, kind: GGMLQuantizationType) -> None:
    """Any random block decodes to finite weights around zero, as large as a real model's."""
    assert callable(make)
    weights = dequantize(make(np.random.default_rng(0), 16, 1024), kind)
    assert weights.shape == (16, 1024) and np.isfinite(weights).all()
    assert abs(weights.mean()) < 0.002 and 0.01 < weights.std() < 0.03


def test_the_base_and_its_adapters_load_and_compute(folder: Path) -> None:
    """The shape is the one asked for, logits are finite, and adapters change them without blowing up."""
    assert read_shape(read_header(folder / "base.gguf")) == SMALL
    options = BackendOptions(context_length=64, max_sequences=2, threads=1)
    backend = LlamaCppBackend.open(folder / "base.gguf", shape=SMALL, settings=options)
    backend.attach(0, backend.load(folder / "adapters" / "0.gguf"))
    base, adapted = (once(backend, [1, 2, 3], slot) for slot in (None, 0))
    assert np.isfinite(adapted).all() and 1e-3 < distance(adapted, base) < 2
    assert backend.tokenizer.end_ids == {600 - 256 + n for n in (1, 8, 9)}
    backend.close()


def test_sizes_are_those_of_the_real_model() -> None:
    """At the full shape the tensors take the 4.92 GB of a Q4_K_M Llama-3.1-8B, an adapter 84 MB."""
    shape = make_base.SHAPES["llama-3.1-8b"]
    assert sum(tensor.nbytes for tensor in make_base.base_tensors(shape)) == pytest.approx(4.92e9, rel=0.005)
    assert sum(tensor.nbytes for tensor in make_base.adapter_tensors(shape, 16)) == pytest.approx(83.9e6, rel=0.001)


def test_never_inside_the_repository(capsys: pytest.CaptureFixture[str]) -> None:
    """Gigabytes of noise do not land beside the sources."""
    inside = Path(make_base.__file__).parent / "out"
    assert make_base.main(["llama-3.1-8b", "--out", str(inside)]) == 2
    assert "outside the repository" in capsys.readouterr().err and not inside.exists()


def test_decode_prints_every_case(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables have all cases, each against the base with as many sequences."""
    arguments = ["--base", str(folder / "base.gguf"), "--adapters", str(folder / "adapters"), "--steps", "4"]
    monkeypatch.setattr(decode, "LONG", 32)
    assert decode.main([*arguments, "--threads", "1", "--prefills", "1"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    steps, prefills = [row for row in rows if len(row) == 7], [row for row in rows if row[0].strip() != "prefill"][10:]
    assert [row[0].strip() for row in steps] == ["1"] * 5 + ["8"] * 5
    assert [row[-1].strip() for row in steps if row[1].strip() == "base, no callback"] == ["1.000", "1.000"]
    assert len(prefills) == 4 and prefills[0][-1].strip() == "1.000"
