"""What this machine is: its processor's name and the cores this process may use. Reads nothing else of it."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """Physical cores, or fewer where the process is bound to fewer processors: a thread more than that waits, spinning,
    for a core that another of them holds."""
    import psutil

    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, min(physical, usable_processors()))


def usable_processors() -> int:
    """Logical processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """As the system writes it; the architecture where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        label, _, value = line.partition(":")
        if label.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
