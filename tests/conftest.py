"""What every test gets: a home of its own, and none of the machine's settings."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def heard_interrupts() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, and what a test starts would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing reads or writes the user's folders, whatever a test forgets to inject."""
    for name in os.environ:
        if name.startswith(("EDGELORA_", "HF_", "HUGGING_FACE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "edgelora-home"))


@pytest.fixture(autouse=True)
def torch_libraries(request: pytest.FixtureRequest) -> None:
    """Tests marked `torch` are skipped where torch, transformers or PEFT is missing."""
    if request.node.get_closest_marker("torch") is not None:
        for name in ("torch", "transformers", "peft"):
            pytest.importorskip(name)
