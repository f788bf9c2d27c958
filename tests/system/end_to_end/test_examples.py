"""Every example is run as its docstring says, against a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgelora.runtime.service import Service
from edgelora_models import builtin
from tests.support.server import serving
from tests.system.clients.__main__ import WINDOW
from tests.system.clients.environments import CLIENTS

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


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


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_lists_and_streams(service: Service) -> None:
    """A shell is enough: the models, and an answer as it comes."""
    with serving(service) as server:
        done = subprocess.run(
            ["sh", str(EXAMPLES / "curl.sh"), "What is hypertension?"],
            env={**os.environ, "OPENAI_BASE_URL": f"{server.url}/v1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert '"id":"medical-faq"' in done.stdout and done.stdout.rstrip().endswith("data: [DONE]")


def test_every_example_is_short_and_has_a_test() -> None:
    """At most 40 lines each. Those that need more than this environment has are run by `python -m
    tests.system.clients`.
    """
    examples = sorted(path.name for path in EXAMPLES.iterdir() if path.is_file())
    elsewhere = [client.example[0] for client in CLIENTS if client.example]
    assert examples == sorted(["ask.py", "curl.sh", WINDOW, *elsewhere])
    assert all(len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 40 for name in examples)
