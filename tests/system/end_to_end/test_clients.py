"""One case of `python -m tests.system.clients`, with the client that is installed here."""

from __future__ import annotations

import subprocess
import sys

from edgelora.runtime.service import Service
from tests.support.server import serving
from tests.system.clients.environments import SCRIPTS

CASES = ("responses_with_tools",)


def test_the_installed_openai_client(service: Service) -> None:
    """Strict about every shape, in a process of its own."""
    with serving(service) as server:
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / "openai_client.py"), server.url, *CASES],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(CASES)
