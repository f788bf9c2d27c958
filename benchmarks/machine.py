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


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
