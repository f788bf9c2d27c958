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
    """Number of accepted requests without a sequence id (waiting, loading their adapter, ready)."""
    running: int
    adapters: tuple[PoolEntry, ...]
    """Adapters in memory, least recently used first."""
    steps: int
    """Number of forward passes since the start."""
    tokens: int
    """Number of tokens chosen since the start."""
    drafted: int = 0
    accepted: int = 0
    """Number of draft tokens accepted since the start, out of the `drafted` ones computed (`draft_budget.py`)."""
    allocated_bytes: int = 0
    allocated_peak_bytes: int = 0
    """Peak bytes of the backend's own allocator if it counts them (MLX, on Metal and on a CPU), otherwise 0."""
    pid: int = 0
    """Id of the process that holds the base."""
    max_queue: int = 0
    """Number of requests that may wait before one is refused."""
    adapter_budget_bytes: int = 0
    kv_cells: int = 0
    """Maximum KV cells over all sequences, one per token."""
    reuse: Reuse = field(default_factory=Reuse)
    counts: tuple[AdapterCounts, ...] = ()
    """Counts by name of all adapters ever used; `adapters/counts.py` bounds their number."""
    occupancy: tuple[Occupancy, ...] = ()
    """Use by sets of adapters; up to a tenth of a second old while steps are computed."""


EngineState = Literal["loading", "ready", "restarting", "stopped"]


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """Whether requests are accepted, and what happened to the process that computes."""

    state: EngineState
    why: str = ""
    """The reason in one sentence, if the engine is not ready."""
    retry_after: float | None = None
    """Seconds until it may be ready, if that is known."""
    restarts: int = 0
    """Number of crashes since the start after which the engine was restarted."""
    pid: int | None = None
    """Id of the process that holds the base; None if there is none."""
