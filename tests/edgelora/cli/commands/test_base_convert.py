"""`edgelora base convert`: what it says, how it ends, and that its result is a base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.cli.support import progress as progress_module
from edgelora.store.library import Library
from edgelora_converters.base import convert as base_convert
from edgelora_models import builtin
from tests.support.checkpoints import VOCAB, edit, left_behind, write_checkpoint
from tests.support.cli import SHAPE, make_app, run

TINY = replace(SHAPE, vocab=VOCAB)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", TINY, shards=2)


def test_convert_and_add(library: Library, folder: Path, tmp_path: Path) -> None:
    """The result is told on stderr with its distance, and `base add` takes it."""
    out = tmp_path / "my.gguf"
    app = make_app(library)
    done = run(app, "base", "convert", str(folder), "--to", "gguf", "--type", "q8_0", "-o", str(out))
    assert (done.exit_code, done.stdout) == (0, "")
    assert "q8_0" in done.stderr and "relative error" in done.stderr and f"edgelora base add {out}" in done.stderr
    assert run(app, "base", "add", str(out)).exit_code == 0
    assert library.bases.get("my").quantization == "Q8_0"


def test_exact(library: Library, folder: Path, tmp_path: Path) -> None:
    """A conversion without rounding is reported as exact."""
    done = run(
        make_app(library), "base", "convert", str(folder), "--to", "gguf", "--type", "f32", "-o", str(tmp_path / "a")
    )
    assert "all exact" in done.stderr


def test_json(library: Library, tmp_path: Path) -> None:
    """--json is the report; the default type is q4_k_m."""
    out = tmp_path / "my.gguf"
    app = make_app(library, EDGELORA_THREADS="1")
    done = run(app, "base", "convert", str(builtin.base_hf()), "--to", "gguf", "-o", str(out), "--json")
    printed = json.loads(done.stdout)
    assert (printed["type"], printed["out"], printed["nbytes"]) == ("q4_k_m", str(out), out.stat().st_size)
    assert 0.03 < printed["proof"]["overall"] <= printed["proof"]["worst"] < 0.1
    assert len(printed["source_digest"]) == 64


def test_refusals(library: Library, folder: Path, tmp_path: Path) -> None:
    """Exit 2 for a wrong command, 6 for a checkpoint that cannot be converted; nothing is left."""
    app = make_app(library)
    before = left_behind(tmp_path)
    to = ("-o", str(tmp_path / "out"))
    assert run(app, "base", "convert", str(folder), *to).exit_code == 2
    assert run(app, "base", "convert", str(folder), "--to", "gguf", "--type", "4bit", *to).exit_code == 2
    assert run(app, "base", "convert", str(folder), "--to", "gguf", "-o", str(folder)).exit_code == 2
    assert run(app, "base", "convert", str(tmp_path / "nowhere"), "--to", "gguf", *to).exit_code == 6
    edit(folder / "config.json", attention_bias=True, sliding_window=8)
    refused = run(app, "base", "convert", str(folder), "--to", "gguf", *to)
    assert refused.exit_code == 6 and "attention_bias" in refused.stderr and "sliding_window" in refused.stderr
    assert left_behind(tmp_path) == before


def test_interrupted(library: Library, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is exit 130, says that nothing was kept, and keeps nothing."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(base_convert, "verify_gguf", interrupted)
    before = left_behind(tmp_path)
    done = run(
        make_app(library), "base", "convert", str(folder), "--to", "gguf", "--type", "f16", "-o", str(tmp_path / "a")
    )
    assert (done.exit_code, "Nothing was written" in done.stderr) == (130, True)
    assert left_behind(tmp_path) == before


def test_bars(library: Library, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal every stage has its bar."""
    drawn: list[str] = []

    class Bars(progress_module.Bars):
        def __call__(self, label: str, done: int, total: int) -> None:
            drawn.append(label)

    monkeypatch.setattr(progress_module, "interactive", lambda _: True)
    monkeypatch.setattr(progress_module, "Bars", Bars)
    run(make_app(library), "base", "convert", str(folder), "--to", "gguf", "--type", "f16", "-o", str(tmp_path / "a"))
    assert list(dict.fromkeys(drawn)) == ["Writing weights", "Checking"]
