"""A snapshot of the runtime's statistics and of the memory of its processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from edgelora.core.machine import ProcessMemory, process_memory
from edgelora.engine.stats import EngineHealth, EngineStats
from edgelora.runtime.interface import Runtime


@dataclass(frozen=True, slots=True)
class Snapshot:
    stats: EngineStats
    health: EngineHealth
    uptime: float
    """Seconds since the server started."""
    memory: dict[str, ProcessMemory]
    """Memory of the process `server`, and of `engine` if that is another one."""


def take_snapshot(runtime: Runtime, started: float) -> Snapshot:
    """Take a snapshot; blocks for a moment. `started`: when the server started, by time.monotonic."""
    health, own = runtime.health(), os.getpid()
    memory = {"server": process_memory(own)}
    if health.pid not in (None, own):
        memory["engine"] = process_memory(health.pid)
    readable = {name: usage for name, usage in memory.items() if usage is not None}
    return Snapshot(runtime.stats(), health, time.monotonic() - started, readable)
