"""`train`: what it refuses at once, what it tells, and Ctrl-C."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from edgelora.cli.commands.train import ending
from edgelora.store.library import Library
from tests.support.cli import make_app, run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}?", "completion": f"{n}!"}) + "\n" for n in range(4)))
    return path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["odd"], "no training data"),
        (["odd", "--resume", "--rank", "4"], "--rank cannot be given with --resume"),
        (["odd", "--resume", "--restart"], "--restart cannot be given with --resume"),
        (["odd", "--data", "a.jsonl", "--rank", "0"], "--rank"),
        (["odd", "--data", "a.jsonl", "--dropout", "1"], "--dropout"),
    ],
)
def test_what_is_refused_at_once(arguments: list[str], expected: str) -> None:
    """Before anything is opened, with the option named."""
    done = run(make_app(), "train", *arguments)
    assert done.exit_code == 2 and expected in done.stderr


def test_ctrl_c_is_heard_twice() -> None:
    """The first asks for an end, the second interrupts; afterwards it means what it meant."""
    before = signal.getsignal(signal.SIGINT)
    with ending() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.mlx
def test_from_the_command_line(library: Library, data: Path, tmp_path: Path) -> None:
    """Notes on stderr as it goes, the result as JSON; a bad line is exit code 2."""
    pytest.importorskip("mlx_lm")
    from tests.support.cli import SHAPE
    from tests.support.mlx import write_tiny_mlx

    library.bases.add(write_tiny_mlx(tmp_path / "tiny-mlx", SHAPE, seed=0), "tiny-mlx")
    options = ["--rank", "2", "--iterations", "2", "--report-every", "1", "--validation", "0.25"]
    done = run(make_app(library), "train", "odd", "--data", str(data), *options, "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["name"], printed["version"], printed["rank"], printed["iterations"]) == ("odd", 1, 2, 2)
    assert len(printed["losses"]) == 2 and printed["validation_losses"][0]["iteration"] == 0
    assert printed["peak_bytes"] > 0
    assert "3 examples, 1 for validation" in done.stderr and "iteration      2  loss" in done.stderr
    again = run(make_app(library), "train", "odd", "--resume", "--iterations", "3")
    assert again.exit_code == 0 and "Continuing after iteration 2." in again.stderr
    assert "Installed odd, version 2, for tiny." in again.stderr
    data.write_text("oops")
    assert (bad := run(make_app(library), "train", "new", "--data", str(data))).exit_code == 2
    assert "data.jsonl, line 1" in bad.stderr
