"""`python -m benchmarks.harness.watched serve ...`: edgelora's own command line, and an engine that writes
down what it holds.

Between two steps, on the engine's own thread, so that the numbers belong together: every INTERVAL seconds, and as soon
as nothing is left to do. One JSON object a line, in the file that WATCH_FILE names.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness.machine import anonymous_bytes
from edgelora.engine import engine

WATCH_FILE = "EDGELORA_BENCHMARK_WATCH"
INTERVAL = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    """time.monotonic."""
    idle: bool
    """No request was live."""
    resident: int
    """Bytes; mapped files included."""
    proportional: int
    anonymous: int
    """Bytes that belong to no file: what is allocated."""
    files: int
    """Open file descriptors, sockets included."""
    threads: int
    live: int
    leases: int
    slots: int
    """Adapters in memory or being loaded."""
    adapter_bytes: int
    running_cells: int
    """KV tokens of running requests, as the scheduler counts."""
    warm_cells: int
    backend_cells: int
    """KV tokens llama.cpp holds over all sequences, a shared one counted for each."""
    steps: int
    tokens: int
    wrong: str
    """What the scheduler's own recount found wrong; empty: nothing."""


class WatchedEngine(engine.Engine):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._file = Path(os.environ[WATCH_FILE]).open("a", buffering=1)  # noqa: SIM115  # as long as the process
        self._process = psutil.Process()
        self._last = 0.0
        self._was_idle = False
        super().__init__(*arguments, **options)

    def _obey(self, *, wait: bool) -> None:
        idle = wait and not self._runs
        if time.monotonic() - self._last >= INTERVAL or (idle and not self._was_idle):
            self._file.write(json.dumps(asdict(self._sample(idle))) + "\n")
            self._last = time.monotonic()
        self._was_idle = idle
        super()._obey(wait=wait)

    def _sample(self, idle: bool) -> Sample:
        scheduler, memory = self._scheduler, self._process.memory_full_info()
        entries = scheduler.pool.snapshot()
        return Sample(
            at=time.monotonic(),
            idle=idle,
            resident=memory.rss,
            proportional=memory.pss,
            anonymous=anonymous_bytes(os.getpid()),
            files=self._process.num_fds(),
            threads=threading.active_count(),
            live=len(self._runs),
            leases=sum(entry.leases for entry in entries),
            slots=len(entries),
            adapter_bytes=scheduler.pool.used_bytes,
            running_cells=sum(sequence.computed for sequence in scheduler._live.values()),
            warm_cells=scheduler._allocator.cached.cells,
            backend_cells=held_cells(self._backend),
            steps=self._steps,
            tokens=self._tokens,
            wrong=self._wrong(),
        )

    def _wrong(self) -> str:
        try:
            self._scheduler.check_integrity()
        except RuntimeError as error:
            return str(error)
        return ""


def held_cells(backend: Any) -> int:
    """Return what llama.cpp's memory itself says, sequence by sequence."""
    from edgelora.backends.llama_cpp.libllama import library

    lib, context = library(), backend._context.handle
    memory, count = lib.llama_get_memory(context), backend.capabilities.max_sequences
    return sum(
        lib.llama_memory_seq_pos_max(memory, sequence) - max(0, lib.llama_memory_seq_pos_min(memory, sequence)) + 1
        for sequence in range(count)
    )


def main() -> None:
    from edgelora.cli import main as edgelora

    engine.Engine = WatchedEngine  # type: ignore[misc]  # the service takes it from there
    edgelora()


if __name__ == "__main__":
    main()
