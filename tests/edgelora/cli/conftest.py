"""What the tests of the command line share: a home of their own, and no colour or debugging from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.store.library import Library
from tests.support.cli import make_library


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("EDGELORA_DEBUG", "EDGELORA_OFFLINE", "HF_HUB_OFFLINE", "EDGELORA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "elsewhere"))


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A store with two adapters, for tests that change nothing."""
    return make_library(tmp_path_factory.mktemp("installed"))


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """The same for one test alone."""
    return make_library(tmp_path / "home")
