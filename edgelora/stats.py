"""What the engine tells about itself. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgelora.adapters.pool import PoolEntry


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
    """Tokens computed as drafts since the start, and of those the ones that came (`speculation.py`)."""


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
    """Of the process that holds the base; None between two."""
