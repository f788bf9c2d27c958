"""The engine's statistics. Values only, which can be pickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgelora.engine.adapters.counts import AdapterCounts
from edgelora.engine.adapters.pool import PoolEntry
from edgelora.engine.scheduler.occupancy import Occupancy, Reuse


@dataclass(frozen=True, slots=True)
class EngineStats:
    queued: int
    """Accepted requests without a place in the batch yet (waiting, loading their adapter, ready)."""
    running: int
    adapters: tuple[PoolEntry, ...]
    """In memory, least recently used first."""
    steps: int
    """Forward passes since the start."""
    tokens: int
    """Tokens chosen since the start."""
    drafted: int = 0
    accepted: int = 0
    """Tokens computed as drafts since the start, and of those the ones that came (`draft_budget.py`)."""
    allocated_bytes: int = 0
    allocated_peak_bytes: int = 0
    """Bytes the backend's own allocator holds, where it counts: MLX's, on Metal and a CPU."""
    pid: int = 0
    """The process that holds the base."""
    max_queue: int = 0
    """Requests that may wait before one is refused."""
    adapter_budget_bytes: int = 0
    kv_cells: int = 0
    """Tokens of KV over all sequences at most."""
    reuse: Reuse = field(default_factory=Reuse)
    counts: tuple[AdapterCounts, ...] = ()
    """By name, of all adapters that were ever used (`counter.py` says what bounds it)."""
    occupancy: tuple[Occupancy, ...] = ()
    """By adapters; while steps are computed it may be a tenth of a second old."""


EngineState = Literal["loading", "ready", "restarting", "stopped"]


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """Whether requests are taken, and what happened to the process that computes."""

    state: EngineState
    why: str = ""
    """In one sentence, where it is not ready."""
    retry_after: float | None = None
    """Seconds until it may be ready, where that can be said."""
    restarts: int = 0
    """Crashes that were got over, since the start."""
    pid: int | None = None
    """The process that holds the base; None while none does."""
