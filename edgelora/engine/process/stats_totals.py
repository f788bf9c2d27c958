"""Statistics of an engine over all its processes: counts continue after a restart. Values are replaced whole.

The larger parts rarely change from step to step, so a process sends only those that did.
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
    """Return `stats` with each of PARTS that equals the one in `told` emptied, and the names of those parts."""
    same = tuple(part for part in PARTS if getattr(stats, part) == getattr(told, part))
    emptied: dict[str, Any] = dict.fromkeys(same, ())
    return (replace(stats, **emptied) if same else stats), same


class StatsTotals:
    def __init__(self) -> None:
        self.now = NOTHING
        """Statistics of all processes together."""
        self._told = NOTHING
        """Statistics of the running process."""
        self._before = NOTHING
        """Sums over the processes that ended."""

    def take(self, stats: EngineStats, same: Iterable[str]) -> None:
        """Take in the result of `without_same` from the other process."""
        whole: dict[str, Any] = {part: getattr(self._told, part) for part in same}
        self._told = replace(stats, **whole)
        self.now = _summed(self._before, self._told)

    def ended(self) -> None:
        """Record that the process died: nothing runs and no adapter is resident."""
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
