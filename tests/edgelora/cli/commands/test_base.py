"""`edgelora base`: the registry of bases as seen from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgelora.store.bases import pull as pull_module
from edgelora.store.library import Library
from tests.support.bases import write_tiny_gguf
from tests.support.cli import SHAPE, make_app, run


def test_ls(installed: Library) -> None:
    """The chosen base is marked; what can be had is said on stderr."""
    done = run(make_app(installed), "base", "ls")
    header, row = done.stdout.splitlines()
    assert header.split() == ["NAME", "FORMAT", "QUANTIZATION", "CONTEXT", "SIZE", "ORIGIN"]
    assert row.split()[:3] == ["*", "tiny", "gguf"]
    assert "edgelora base pull llama-3.1-8b" in done.stderr


def test_ls_json(installed: Library) -> None:
    """--json is an array with raw sizes, and nothing on stderr."""
    done = run(make_app(installed), "base", "ls", "--json")
    (printed,) = json.loads(done.stdout)
    assert (printed["name"], printed["chosen"], done.stderr) == ("tiny", True, "")
    assert printed["bytes"] == Path(printed["location"]).stat().st_size


def test_add_use_rm(library: Library, tmp_path: Path) -> None:
    """A local file is added where it lies, chosen, and forgotten without being deleted."""
    path = write_tiny_gguf(tmp_path / "second.gguf", SHAPE, seed=1)
    app = make_app(library)
    added = run(app, "base", "add", str(path), "--json")
    assert json.loads(added.stdout)["location"] == str(path)
    assert run(app, "base", "use", "second").exit_code == 0
    assert library.bases.current().name == "second"
    removed = run(app, "base", "rm", "second")
    assert removed.exit_code == 0 and str(path) in removed.stderr
    assert path.exists() and library.bases.names() == ("tiny",)


def test_add_refused(library: Library, tmp_path: Path) -> None:
    """A path that is not there is exit 2, a file that is no model exit 6."""
    text = tmp_path / "notes.gguf"
    text.write_text("not a model")
    assert run(make_app(library), "base", "add", str(tmp_path / "nothing.gguf")).exit_code == 2
    assert run(make_app(library), "base", "add", str(text)).exit_code == 6


@pytest.mark.parametrize("verb", ["use", "rm"])
def test_unknown_name(installed: Library, verb: str) -> None:
    """An unknown base is exit 3 with near names."""
    done = run(make_app(installed), "base", verb, "tine")
    assert (done.exit_code, "Did you mean 'tiny'?" in done.stderr) == (3, True)


def test_pull_offline(installed: Library) -> None:
    """--offline is exit 4, before any network, and says which file to bring."""
    for arguments, environ in (["--offline"], {}), ([], {"HF_HUB_OFFLINE": "1"}):
        done = run(make_app(installed, **environ), *arguments, "base", "pull", "llama-3.1-8b")
        assert (done.exit_code, done.stdout) == (4, "")
        assert "Q4_K_M.gguf" in done.stderr and "Downloading" not in done.stderr


def test_pull_of_an_unknown_name(installed: Library) -> None:
    """A name that is neither of the catalogue nor a repository is exit 3, without a network."""
    assert run(make_app(installed), "base", "pull", "lama-3.1-8b").exit_code == 3


def test_pull_says_what_comes(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size, source and licence are said before the download, and what to do next after it."""
    calls: list[SimpleNamespace] = []

    def pull(name: str, **options: object) -> object:
        calls.append(SimpleNamespace(name=name, **options))
        return library.bases.get("tiny")

    monkeypatch.setattr(pull_module, "pull", pull)
    done = run(make_app(library), "base", "pull", "llama-3.1-8b")
    assert (done.exit_code, done.stdout) == (0, "")
    before, _, after = done.stderr.partition("Pulled tiny.")
    assert "4.9 GB" in before and "Licence" in before and "edgelora base use tiny" in after
    assert (calls[0].format, calls[0].directories, calls[0].offline) == ("gguf", library.settings.directories, False)


def test_interrupted_pull(installed: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a download is exit 130, and says that it can go on."""

    def pull(name: str, **options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(pull_module, "pull", pull)
    done = run(make_app(installed), "base", "pull", "llama-3.1-8b")
    assert (done.exit_code, "same command to resume" in done.stderr) == (130, True)
