"""The benchmarks on an MLX base: the made-up one is a base, and the same commands run on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import bases, make_base
from benchmarks.harness.make_mlx_base import write_mlx_base
from benchmarks.latency import stall
from benchmarks.throughput import decode
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora_models.identity import identify_folder
from edgelora_models.shape import LlamaShape
from tests.support.steps import distance, once

SMALL = LlamaShape(layers=2, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=600, tied=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made")
    write_mlx_base(path / "base", SMALL)
    make_base.write_base(path / "base.gguf", SMALL)
    (path / "adapters").mkdir()
    for number in range(2):
        make_base.write_adapter(path / "adapters" / f"{number}.gguf", SMALL, number, 4)
    return path


def test_both_forms_are_told_apart(folder: Path) -> None:
    """By what is there: the shape is that of either, and so is the vocabulary."""
    assert bases.shape_of(folder / "base") == bases.shape_of(folder / "base.gguf") == SMALL
    assert identify_folder(folder / "base").quantization == "4-bit, groups of 64"
    assert bases.computed_by(folder / "base.gguf") == "llama.cpp"
    assert 0 < bases.nbytes_of(folder / "base") < bases.nbytes_of(folder / "base.gguf")


@pytest.mark.mlx
def test_it_loads_and_computes(folder: Path) -> None:
    """Logits are finite, and an adapter made for the GGUF form changes them without blowing up."""
    pytest.importorskip("mlx")
    backend = bases.open_base(folder / "base", BackendOptions(context_length=64, max_sequences=2))
    with bases.adapter_files(folder / "adapters", folder / "base", 1) as (path,):
        backend.attach(0, backend.load(path))
        base, adapted = (once(backend, [1, 2, 3], slot) for slot in (None, 0))
    assert np.isfinite(adapted).all() and 1e-3 < distance(adapted, base) < 2
    assert 600 - 256 + 9 in backend.tokenizer.end_ids
    assert not list((folder / "adapters").glob(".mapped*"))
    backend.close()


@pytest.mark.mlx
def test_decode_and_stall(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of both, and a last line that says what computed."""
    pytest.importorskip("mlx")
    monkeypatch.setattr(decode, "LONG", 16)
    monkeypatch.setattr(decode, "WIDE", 2)
    arguments = ["--base", str(folder / "base"), "--adapters", str(folder / "adapters")]
    assert decode.main([*arguments, "--steps", "4", "--prefills", "1"]) == 0
    out = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in out.splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in rows if row[0].strip() in {"1", "2"}] == [
        *("base", "one adapter", "base", "2 adapters", "one adapter shared by all")
    ]
    assert "MLX on" in out
    monkeypatch.setattr(stall, "ALONE", 4)
    assert stall.main(["--base", str(folder / "base"), "--prompt", "40"]) == 0
    assert "MLX on" in capsys.readouterr().out
