"""The built-in base's record, made once."""

from __future__ import annotations

import pytest

from edgelora.core.config import read_settings
from edgelora.store.bases.record import BaseRecord
from edgelora.store.bases.registry import Bases
from edgelora_models.builtin import BASE_NAME, base_gguf


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> BaseRecord:
    home = tmp_path_factory.mktemp("tuning")
    return Bases(read_settings({"EDGELORA_HOME": str(home)}).directories).add(base_gguf(), BASE_NAME)
