"""Statistics of an engine over all its processes: counts go on where the last one died. Values are replaced whole.

The larger parts of them rarely change from step to step, so a process tells those only that did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from edgelora.engine.adapters.counts import AdapterCounts
from edgelora.engine.scheduler.occupancy import Reuse
from edgelora.engine.stats import EngineStats

PARTS = ("adapters", "counts", "occupancy")
NOTHING = EngineStats(0, 0, (), 0, 0)


def without_same(stats: EngineStats, told: EngineStats) -> tuple[EngineStats, tuple[str, ...]]:
    """`stats` with those of PARTS emptied that are as `told`, and their names."""
    same = tuple(part for part in PARTS if getattr(stats, part) == getattr(told, part))
    emptied: dict[str, Any] = dict.fromkeys(same, ())
    return (replace(stats, **emptied) if same else stats), same


class StatsTotals:
    def __init__(self) -> None:
        self.now = NOTHING
        """The statistics of all processes together."""
        self._told = NOTHING
        """The statistics of the running process."""
        self._before = NOTHING
        """The sums of the processes that ended."""

    def take(self, stats: EngineStats, same: Iterable[str]) -> None:
        """The result of `without_same` in the other process."""
        whole: dict[str, Any] = {part: getattr(self._told, part) for part in same}
        self._told = replace(stats, **whole)
        self.now = _summed(self._before, self._told)

    def ended(self) -> None:
        """The process is dead: nothing runs and nothing is in memory."""
        self.now = replace(self.now, queued=0, running=0, adapters=(), occupancy=())
        self._before, self._told = self.now, NOTHING


def _summed(before: EngineStats, now: EngineStats) -> EngineStats:
    if before is NOTHING:
        return now
    return replace(
        now,
        steps=before.steps + now.steps,
        tokens=before.tokens + now.tokens,
        drafted=before.drafted + now.drafted,
        accepted=before.accepted + now.accepted,
        reuse=_reuse(before.reuse, now.reuse),
        counts=_counts(before.counts, now.counts),
    )


def _reuse(one: Reuse, two: Reuse) -> Reuse:
    return Reuse(one.starts + two.starts, one.hits + two.hits, one.tokens + two.tokens, one.restored + two.restored)


def _counts(before: Iterable[AdapterCounts], now: Iterable[AdapterCounts]) -> tuple[AdapterCounts, ...]:
    sums = {counts.name: counts for counts in before}
    for new in now:
        old = sums.get(new.name)
        if old is not None:
            new = AdapterCounts(
                new.name,
                old.requests + new.requests,
                old.hits + new.hits,
                old.loads + new.loads,
                old.evictions + new.evictions,
                max(old.last_used, new.last_used),
            )
        sums[new.name] = new
    return tuple(sums.values())
