"""What the numbers were measured on, for the foot of every table."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = ("llama-cpp-python", "numpy")


def describe() -> str:
    """One line: processor, cores, memory, system, Python and package versions."""
    memory = psutil.virtual_memory().total / (1 << 30)
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count()
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{_processor()}, {cores} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {packages}"
    )


def anonymous_bytes(pid: int) -> int:
    """Return a process's resident memory that belongs to no file; 0 where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
