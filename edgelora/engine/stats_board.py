"""The statistics that the engine's thread posts and any other thread reads. Owns how often they are refreshed."""

from __future__ import annotations

import os
import time

from edgelora.backends.base import Backend
from edgelora.engine.scheduler.occupancy import Occupancy
from edgelora.engine.scheduler.scheduler import Scheduler
from edgelora.engine.stats import EngineStats

FRESH_SECONDS = 0.1
"""Minimum seconds between two counts over all requests while steps are computed.

On a tiny base a step takes a millisecond.
"""


class StatsBoard:
    """The engine's thread calls `post` and `close`; `stats` is replaced, never changed."""

    def __init__(self, scheduler: Scheduler, backend: Backend) -> None:
        self._scheduler = scheduler
        self._backend = backend
        self._occupancy: tuple[Occupancy, ...] = ()
        self._counted = 0.0
        self.stats = self._stats(0, 0)

    def post(self, steps: int, tokens: int, *, idle: bool = False) -> None:
        """Post new statistics. `idle`: nothing is computed next, so the full count is refreshed."""
        now = time.monotonic()
        if idle or now - self._counted >= FRESH_SECONDS:
            self._occupancy, self._counted = self._scheduler.occupancy(), now
        self.stats = self._stats(steps, tokens)

    def close(self, steps: int, tokens: int) -> None:
        """Post the final statistics: no adapters or requests are left, and the sums stay."""
        counts, drafts = self._scheduler.pool.counter.snapshot(), self._scheduler.drafts
        self.stats = EngineStats(0, 0, (), steps, tokens, *drafts, counts=counts)

    def _stats(self, steps: int, tokens: int) -> EngineStats:
        scheduler = self._scheduler
        drafted, accepted = scheduler.drafts
        allocated, allocated_peak = self._backend.allocated_bytes()
        return EngineStats(
            queued=0,
            running=scheduler.num_running,
            adapters=scheduler.pool.snapshot(),
            steps=steps,
            tokens=tokens,
            drafted=drafted,
            accepted=accepted,
            allocated_bytes=allocated,
            allocated_peak_bytes=allocated_peak,
            pid=os.getpid(),
            max_queue=scheduler.limits.capacity - scheduler.capabilities.max_sequences,
            adapter_budget_bytes=scheduler.pool.budget_bytes,
            kv_cells=scheduler.capabilities.kv_cells,
            reuse=scheduler.reuse,
            counts=scheduler.pool.counter.snapshot(),
            occupancy=self._occupancy,
        )
