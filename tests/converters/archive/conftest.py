"""An adapter to be packed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora_converters.peft.folder import FILES
from tests.support.adapters import TINY, write_peft


@pytest.fixture
def adapter(tmp_path: Path) -> dict[str, bytes]:
    """The two files of a small adapter."""
    folder = write_peft(tmp_path / "adapter", TINY, targets=["q_proj"])
    return {name: (folder / name).read_bytes() for name in FILES}
