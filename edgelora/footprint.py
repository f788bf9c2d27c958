"""What a process takes of the machine's memory, now and at most."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    resident: int
    """Bytes, mapped files included."""
    peak: int | None
    """The most there ever was of it; None where the system does not say."""


def process_memory(pid: int) -> ProcessMemory | None:
    """None for a process that is gone, or whose memory this user may not see."""
    import psutil

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return ProcessMemory(info.rss, _peak(pid, info))


def _peak(pid: int, info: object) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    windows: int | None = getattr(info, "peak_wset", None)
    return windows if windows is not None or pid != os.getpid() else _own_peak()


def _own_peak() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10  # Apple counts bytes, the others kibibytes
