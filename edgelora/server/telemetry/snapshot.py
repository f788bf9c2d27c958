"""What a server holds at one moment: the runtime's statistics and the system's. Blocking, but short."""

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
    """Seconds."""
    memory: dict[str, ProcessMemory]
    """Of the process `server`, and of `engine` where that is another one."""


def take_snapshot(runtime: Runtime, started: float) -> Snapshot:
    """`started`: when the server began, by time.monotonic."""
    health, own = runtime.health(), os.getpid()
    memory = {"server": process_memory(own)}
    if health.pid not in (None, own):
        memory["engine"] = process_memory(health.pid)
    known = {name: one for name, one in memory.items() if one is not None}
    return Snapshot(runtime.stats(), health, time.monotonic() - started, known)
