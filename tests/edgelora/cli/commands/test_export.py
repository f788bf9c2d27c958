"""`edgelora export`: installed adapters as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgelora.runtime.service import Library
from edgelora_converters.convert.source import adapter_kind, read_source
from tests.support.cli import SHAPE, make_app, run


@pytest.mark.parametrize("to", ["peft", "gguf", "mlx"])
def test_forms(installed: Library, tmp_path: Path, to: str) -> None:
    """The output has the requested format, and every module of the installed adapter."""
    out = tmp_path / "out"
    done = run(make_app(installed), "export", "pirate", "--to", to, "-o", str(out), "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert (printed["name"], printed["version"], printed["to"], printed["out"]) == ("pirate", 1, to, str(out))
    assert printed["worst"] < 1e-6
    assert adapter_kind(out) == to
    assert len(read_source(out, SHAPE).pairs) == 14


def test_peft_files_are_the_very_ones(installed: Library, tmp_path: Path) -> None:
    """PEFT comes back byte for byte as it was added."""
    run(make_app(installed), "export", "pirate", "--to", "peft", "-o", str(tmp_path / "out"))
    source = installed.settings.directories.data.parent / "sources" / "pirate"
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {
        p.name: p.read_bytes() for p in source.iterdir()
    }


def test_refusals(installed: Library, tmp_path: Path) -> None:
    """An OUT that is there is exit 2 and left alone; an unknown adapter is exit 3 with near names."""
    out = tmp_path / "out"
    out.mkdir()
    app = make_app(installed)
    for to in ("peft", "gguf", "mlx"):
        assert run(app, "export", "pirate", "--to", to, "-o", str(out)).exit_code == 2
    assert not list(out.iterdir())
    done = run(app, "export", "pirat", "--to", "gguf", "-o", str(tmp_path / "a.gguf"))
    assert (done.exit_code, "Did you mean 'pirate'?" in done.stderr) == (3, True)
