"""The server benchmarks end to end with tiny settings: the real `edgelora serve`, asked for a moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.homes import BASE_NAME, Home, adopted_home, builtin_home, settings_of
from benchmarks.serving import serve
from benchmarks.throughput import mixed
from edgelora.store.library import open_library
from edgelora_converters.lora.adapter import Target
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_converters.mapped.reader import MappedPair

TINY = ["--threads", "1", "--context", "256", "--sequences", "2"]


def test_serve_prints_a_row_for_each_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every job of the workload is answered with as many tokens as asked, and the adapters were really loaded."""
    tiny = [*TINY, "--inputs", "8,12", "--outputs", "4,8", "--counts", "3", "--alphas", "1"]
    code = serve.main([*tiny, "--rates", "8", "--seconds", "2", "--home", str(tmp_path / "home")])
    _, _, row, _, _ = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    found = dict(zip(serve.COLUMNS, cells, strict=False))
    assert code == 0 and found["server"] == "edgelora"
    assert int(found["jobs"]) > 5 and found["refused (429)"] == found["lost"] == "0"
    assert float(found["tok/s"]) > 0 and found["adapter loads"] == "3"


def test_mixed_prints_speed_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """Each request of each round is answered in full; the memory is that of a process."""
    assert mixed.main(["--requests", "2", "--rounds", "1", "--prompt", "8", "--tokens", "6", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "| edgelora | 2 on 2 adapters |" in out and "| edgelora | 2 on the base |" in out
    memory = next(line for line in out.splitlines() if line.startswith("| edgelora |") and "MB" in line)
    assert float(memory.split("|")[2].split()[0]) > 10


def test_adopted_files_are_what_the_store_hands_out(tmp_path: Path) -> None:
    """A GGUF adapter is found by name under the other base, with the deltas it had."""
    made = builtin_home(tmp_path / "made", 2)
    adopted = adopted_home(tmp_path / "adopted", made.base, made.files())
    assert adopted.files() == made.files()
    one, other = (pairs_of(home) for home in (made, adopted))
    assert len(one) == len(other) == 2 and open_library(settings_of(adopted.path)).bases.chosen() == BASE_NAME
    for before, after in zip(one, other, strict=True):
        assert before.keys() == after.keys()
        for target in before:
            assert np.array_equal(before[target].a, after[target].a)
            assert np.allclose(before[target].scale * before[target].b, after[target].b, rtol=1e-6)


def pairs_of(home: Home) -> list[Mapping[Target, MappedPair]]:
    library = open_library(settings_of(home.path))
    base = library.bases.current()
    shape = base.identity.fingerprint.shape
    return [mapped_reader.read(library.store.ref(name, base).path, shape).pairs for name in home.names]
