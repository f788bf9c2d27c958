"""The use of a resident base: requests and KV cells by the adapters applied. Values and sums. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgelora.engine.adapters.counts import AdapterCounter
from edgelora.engine.scheduler.cached_sequences import CachedSequence
from edgelora.engine.scheduler.sequence import Sequence
from edgelora.engine.scheduler.states import RUNNING


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The use by one set of adapters, whatever their versions and weights."""

    adapters: tuple[str, ...]
    """Adapter names in alphabetical order; empty for the base alone."""
    waiting: int = 0
    """Number of requests without a sequence id."""
    running: int = 0
    """Number of requests with a sequence id."""
    cells: int = 0
    """Number of KV cells of running requests."""
    cached: int = 0
    """Number of cached KV cells of ended requests."""

    def plus(self, other: Occupancy) -> Occupancy:
        """Return the sums of both under this one's adapters."""
        return Occupancy(
            self.adapters,
            self.waiting + other.waiting,
            self.running + other.running,
            self.cells + other.cells,
            self.cached + other.cached,
        )


@dataclass(frozen=True, slots=True)
class Reuse:
    """Reuse of KV since the start."""

    starts: int = 0
    """Number of requests that got a sequence id; a preempted request counts again."""
    hits: int = 0
    """Number of those whose prompt had a cached prefix."""
    tokens: int = 0
    """Number of prompt tokens that were not computed because of it."""
    restored: int = 0
    """Number of prefixes read from disk."""

    def started(self, reused: int) -> Reuse:
        return Reuse(self.starts + 1, self.hits + (reused > 0), self.tokens + reused, self.restored)

    def read(self) -> Reuse:
        return Reuse(self.starts, self.hits, self.tokens, self.restored + 1)


def occupancy(
    live: Iterable[Sequence], cached: Iterable[CachedSequence], counter: AdapterCounter
) -> tuple[Occupancy, ...]:
    """Return the use by sets of adapters, in no particular order. `counter` maps versions to names."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for sequence in live:
        counts = sums.setdefault(tuple(sorted(use.ref.name for use in sequence.request.adapters)), [0, 0, 0, 0])
        counts[1 if sequence.state in RUNNING else 0] += 1
        counts[2] += sequence.computed
    for entry in cached:
        names = counter.names(version for (version, _), _, _ in entry.key)
        sums.setdefault(names, [0, 0, 0, 0])[3] += len(entry.tokens)
    return tuple(Occupancy(names, *numbers) for names, numbers in sums.items())
