"""The machine: its processor, the cores and memory that this process may use, and the load of other processes."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    resident: int
    """Bytes, mapped files included."""
    peak: int | None
    """The most there ever was of it; None where the system does not say."""


def process_memory(pid: int) -> ProcessMemory | None:
    """Return the memory of a process; None if it is gone, or this user may not see it."""
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
    """Return the processor's name as the system gives it; the architecture where it gives none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        label, _, value = line.partition(":")
        if label.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes."""

    total: int
    """Memory of the machine, or of the container this process is in."""
    available: int
    """Memory that can be allocated without pushing other programs out."""


def memory() -> Memory:
    import psutil

    machine = psutil.virtual_memory()
    return within(Memory(int(machine.total), int(machine.available)), _cgroup_limits())


def within(machine: Memory, groups: Iterable[tuple[int, int]]) -> Memory:
    """Limit `machine` by control groups, each given as (limit, used) in bytes."""
    total, available = machine.total, machine.available
    for limit, used in groups:
        total, available = min(total, limit), min(available, max(0, limit - used))
    return Memory(total, available)


def _cgroup_limits() -> Iterable[tuple[int, int]]:
    """Return the limits of this process's control groups, versions 1 and 2; groups without a limit are left out.

    What a group uses counts without the files it has read, which make room by themselves.
    """
    for folder, limit, used, cache in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            numbers = [(folder / name).read_text(encoding="ascii").strip() for name in (limit, used)]
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            continue
        if all(number.isdigit() for number in numbers):
            yield int(numbers[0]), max(0, int(numbers[1]) - int(stat.get(cache, "0")))


class OtherWork:
    """Measures how busy other processes, or other guests of the host, have kept the processors since its creation."""

    def __init__(self) -> None:
        self._start = _times()

    def share(self) -> float:
        """0.0: all of the machine was this process's, or idle; 1.0: none of it."""
        (all_before, busy_before, own_before), (all_now, busy_now, own_now) = self._start, _times()
        others = (busy_now - busy_before) - (own_now - own_before)
        return min(1.0, max(0.0, others / max(all_now - all_before, 1e-9)))


def _times() -> tuple[float, float, float]:
    """Return the seconds of all processors since the start: in all, not idle, this process's."""
    import psutil

    times = psutil.cpu_times()._asdict()
    # Linux counts a guest's time in its user's too.
    total = sum(seconds for name, seconds in times.items() if name not in {"guest", "guest_nice"})
    return total, total - times["idle"] - times.get("iowait", 0.0), time.process_time()
