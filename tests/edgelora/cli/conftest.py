"""Fixtures of the command line's tests: a home of their own, libraries, and a service that answers "Hello."."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgelora.store.library import Library
from tests.support.cli import ANSWERS, make_library
from tests.support.service import FakeService


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("EDGELORA_DEBUG", "EDGELORA_OFFLINE", "HF_HUB_OFFLINE", "EDGELORA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "elsewhere"))


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A library with two adapters, for tests that change nothing."""
    return make_library(tmp_path_factory.mktemp("installed"))


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A library with two adapters for one test alone."""
    return make_library(tmp_path / "home")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    """A service with the adapters of ANSWERS, whose base says "Hello."."""
    with FakeService(tmp_path, adapters=ANSWERS, answer="Hello.") as service:
        yield service
