"""`edgelora combine`: adapters added up, written or installed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora.runtime.service import Library
from edgelora_converters.peft import reader as peft_reader
from tests.support.adapters import write_peft
from tests.support.bases import write_tiny_gguf
from tests.support.cli import SHAPE, make_app, run
from tests.support.lora import delta


def test_written(installed: Library, tmp_path: Path) -> None:
    """-o is a PEFT folder whose deltas are the weighted sums; ADAPTER:WEIGHT and ADAPTER=WEIGHT are the same."""
    out = tmp_path / "out"
    done = run(make_app(installed), "combine", "pirate:0.75", "medical-faq=0.25", "-o", str(out), "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    figures = [printed[name] for name in ("out", "rank", "modules", "error", "losses")]
    assert figures == [str(out), 8, 14, 0.0, []]
    sources = installed.settings.directories.data.parent / "sources"
    first, second = (peft_reader.read(sources / name, SHAPE) for name in ("pirate", "medical-faq"))
    for target, pair in peft_reader.read(out, SHAPE).pairs.items():
        expected = 0.75 * delta(first.pairs[target]) + 0.25 * delta(second.pairs[target])
        np.testing.assert_allclose(delta(pair), expected, atol=1e-6)


def test_installed_under_a_name(library: Library) -> None:
    """--name installs the result as any adapter, and says what to do with it."""
    done = run(make_app(library), "combine", "pirate", "medical-faq", "--name", "both")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "edgelora run --adapter both" in done.stderr
    assert library.store.get("both").latest.rank == 8


def test_a_lower_rank_tells_what_it_cost(installed: Library, tmp_path: Path) -> None:
    """--rank gives the rank asked for; the error is told, with --modules of each."""
    arguments = ("combine", "pirate", "medical-faq", "--rank", "5")
    done = run(make_app(installed), *arguments, "-o", str(tmp_path / "out"), "--modules")
    assert (done.exit_code, "rank 5" in done.stderr, "relative error" in done.stderr) == (0, True, True)
    assert len(done.stdout.splitlines()) == 15
    printed = json.loads(run(make_app(installed), *arguments, "-o", str(tmp_path / "more"), "--json").stdout)
    assert 0 < printed["error"] < 1
    assert len(printed["losses"]) == 14


def test_paths_are_adapters_too(installed: Library, tmp_path: Path) -> None:
    """A path that is no installed name is read as what it holds."""
    source = write_peft(tmp_path / "mine", SHAPE, rank=2, seed=9)
    app = make_app(installed)
    run(app, "convert", str(source), "--to", "mlx", "-o", str(tmp_path / "mlx"))
    done = run(app, "combine", f"{source}:2", str(tmp_path / "mlx"), "pirate", "-o", str(tmp_path / "out"), "--json")
    assert json.loads(done.stdout)["rank"] == 2 + 2 + 4


def test_other_bases_are_not_mixed(library: Library, tmp_path: Path) -> None:
    """Adapters that were added for different bases cannot be combined, though their shapes be the same."""
    record = library.bases.add(write_tiny_gguf(tmp_path / "b.gguf", replace(SHAPE, vocab=SHAPE.vocab + 8), seed=0), "b")
    library.store.add(write_peft(tmp_path / "mine", SHAPE, seed=9), name="mine", base=record)
    done = run(make_app(library), "combine", "pirate", "mine", "-o", str(tmp_path / "out"), "--json")
    assert done.exit_code == 5
    assert json.loads(done.stderr)["error"]["code"] == "combine_bases"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("pirate", "medical-faq"),
        ("pirate", "--name", "x", "-o", "y"),
        ("pirate:9", "-o", "y"),
        ("pirate=much", "-o", "y"),
        ("pirate:0", "-o", "y"),
        ("pirate", "--rank", "0", "-o", "y"),
    ],
)
def test_wrong_use(installed: Library, arguments: tuple[str, ...]) -> None:
    """Neither or both of --name and -o, a weight that is none, nothing that acts, no rank: exit 2."""
    assert run(make_app(installed), "combine", *arguments).exit_code == 2


def test_unknown_names(installed: Library, tmp_path: Path) -> None:
    """An unknown adapter is exit 3 with near names, whatever weight it has."""
    done = run(make_app(installed), "combine", "pirat:0.5", "-o", str(tmp_path / "out"))
    assert (done.exit_code, "Did you mean 'pirate'?" in done.stderr) == (3, True)
