"""An empty store, unless a test file has one of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.store.adapters.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")
