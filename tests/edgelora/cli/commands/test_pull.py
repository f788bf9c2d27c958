"""`edgelora pull`: what is said and where it goes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from edgelora.runtime.install import pull as pull_module
from edgelora.runtime.install.pull import PulledAdapter, PullOptions
from edgelora.store.library import Library
from tests.support.cli import make_app, run


@pytest.fixture
def pull_calls(library: Library, monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """Replace `pull` and record its calls; it returns an installed adapter, or for `o/base` a base."""
    calls: list[SimpleNamespace] = []

    def pull(name: str, **options: Any) -> object:
        calls.append(SimpleNamespace(name=name, **options))
        record = library.bases.get("tiny")
        if name == "o/base":
            return record
        manifest = library.store.get("pirate")
        return PulledAdapter(manifest, manifest.latest, record, 1.0 if name == "o/cached" else None)

    monkeypatch.setattr(pull_module, "pull", pull)
    return calls


def test_an_adapter(library: Library, pull_calls: list[SimpleNamespace]) -> None:
    """Options reach the library; what to do next is said on stderr."""
    options = ["--name", "x", "--base", "tiny", "--subfolder", "s", "--token", "t"]
    done = run(make_app(library), "pull", "o/r@v1", *options)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Installed pirate, version 1, for tiny" in done.stderr and "--adapter pirate" in done.stderr
    (call,) = pull_calls
    assert (call.name, call.options, call.access.token) == ("o/r@v1", PullOptions("x", "tiny", "s"), "t")
    assert run(make_app(library), "pull", "o/r", "--allow-approximate").exit_code == 0
    reading = pull_calls[-1].options.reading
    assert reading is not None and reading.allow_approximate


def test_json(library: Library, pull_calls: list[SimpleNamespace]) -> None:
    """stdout has one object, for an adapter or a base."""
    printed = json.loads(run(make_app(library), "pull", "o/r", "--json").stdout)
    assert (printed["name"], printed["origin"]) == ("pirate", "")
    assert json.loads(run(make_app(library), "pull", "o/base", "--json").stdout)["format"] == "gguf"


def test_a_base_and_a_cached_adapter(library: Library, pull_calls: list[SimpleNamespace]) -> None:
    """A base is chosen next; what did not come from the hub just now is said to be old."""
    assert "edgelora base use tiny" in run(make_app(library), "pull", "o/base").stderr
    assert "The hub was not contacted" in run(make_app(library), "pull", "o/cached").stderr


def test_interrupted(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is exit 130, and says that nothing is lost."""

    def pull(name: str, **options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(pull_module, "pull", pull)
    done = run(make_app(library), "pull", "o/r")
    assert done.exit_code == 130 and "same command to resume" in done.stderr


def test_offline(library: Library) -> None:
    """--offline without a cache is exit 4, before any network."""
    assert run(make_app(library), "--offline", "pull", "o/r").exit_code == 4
