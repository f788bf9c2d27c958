"""One home with the built-in base installed, and one service over it, for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgelora.core.config import Settings, read_settings
from edgelora.runtime.service import Service


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def settings(home: Path) -> Settings:
    return read_settings({"EDGELORA_HOME": str(home), "EDGELORA_OFFLINE": "1", "EDGELORA_THREADS": "1"})


@pytest.fixture(scope="session")
def service(settings: Settings) -> Iterator[Service]:
    with Service.open(settings) as service:
        yield service
