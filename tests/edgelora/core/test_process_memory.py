"""What a process takes of memory."""

from __future__ import annotations

import os
import subprocess
import sys

from edgelora.core.machine import process_memory


def test_of_this_process() -> None:
    """As the system tells it; there was never less at most than there is."""
    found = process_memory(os.getpid())
    assert found is not None and found.resident > 1 << 20
    assert found.peak is None or found.peak >= found.resident // 2


def test_of_another_process() -> None:
    """A child's is told while it lives; of one that is gone there is none."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = process_memory(child.pid)
    child.communicate(b"\n")
    assert found is not None and found.resident > 0
    assert process_memory(child.pid) is None
