"""What a server holds at one moment: the runtime's statistics and the system's. Blocking, but short."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from edgelora.machine import ProcessMemory, process_memory
from edgelora.server.runtime import Runtime
from edgelora.stats import EngineStats


@dataclass(frozen=True, slots=True)
class Snapshot:
    stats: EngineStats
    uptime: float
    """Seconds."""
    memory: dict[str, ProcessMemory]
    """Of the process `server`, and of `engine` where that is another one."""


def take_snapshot(runtime: Runtime, started: float) -> Snapshot:
    """`started`: when the server began, by time.monotonic."""
    stats, own = runtime.stats(), os.getpid()
    memory = {"server": process_memory(own)}
    if stats.pid not in (0, own):
        memory["engine"] = process_memory(stats.pid)
    return Snapshot(stats, time.monotonic() - started, {name: one for name, one in memory.items() if one is not None})
