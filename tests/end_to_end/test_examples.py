"""Every example is run as its docstring says, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from edgelora.service import Service
from edgelora_models import builtin
from tests.support.server import serving

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_ask_shows_every_models_answer(service: Service) -> None:
    """One question, every model the server lists, each answering in its own way."""
    with serving(service) as server:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "ask.py"), "What is hypertension?"],
            env={**os.environ, "OPENAI_BASE_URL": f"{server.url}/v1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert all(f"{name}: " in done.stdout for name in [builtin.BASE_NAME, *builtin.adapters()])
    assert "not medical advice" in done.stdout


def test_every_example_is_short_and_has_a_test_here() -> None:
    """At most 40 lines each, and none that nobody runs."""
    examples = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix == ".py")
    assert examples == ["ask.py"]
    assert all(len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 40 for name in examples)
