"""An empty library for every test here."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.store.library import Library
from tests.support.cli import make_library


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return make_library(tmp_path / "home")
