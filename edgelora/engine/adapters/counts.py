"""How often adapters were used, loaded and evicted since the start, by name. No I/O, no clock, no threads.

Bounded: the first NAMES adapters have counts of their own, all later ones share one. No count ever goes down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgelora.core.request import AdapterRef

NAMES = 256
OTHERS = "(other)"
"""Name under which adapters beyond NAMES and unknown versions are counted; no adapter can have this name."""
_VERSIONS = 1024
"""Maximum number of versions whose names are remembered."""


@dataclass(frozen=True, slots=True)
class AdapterCounts:
    """Counts of one adapter name since the start, summed over all its versions."""

    name: str
    requests: int
    """Number of requests that used the adapter."""
    hits: int
    """Number of those requests that found the adapter resident."""
    loads: int
    evictions: int
    last_used: float
    """Unix seconds of the last use; 0.0 if the adapter was never used."""


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    hits: int = 0
    loads: int = 0
    evictions: int = 0
    last_used: float = 0.0


class AdapterCounter:
    def __init__(self) -> None:
        self._counts: dict[str, _Counts] = {}
        self._names: dict[str, str] = {}
        """Adapter names by version, oldest first."""
        self._told: tuple[AdapterCounts, ...] | None = ()
        """The last snapshot; None after a change."""

    def used(self, ref: AdapterRef, *, hit: bool, now: float) -> None:
        """Count a request that takes a lease on the adapter. `hit`: the adapter was already resident."""
        counts = self._of(ref)
        counts.requests += 1
        counts.hits += hit
        counts.last_used = now

    def released(self, ref: AdapterRef, *, now: float) -> None:
        self._of(ref).last_used = now

    def loaded(self, ref: AdapterRef) -> None:
        self._of(ref).loads += 1

    def evicted(self, ref: AdapterRef) -> None:
        self._of(ref).evictions += 1

    def names(self, versions: Iterable[str]) -> tuple[str, ...]:
        """Return the adapter names of these versions in alphabetical order; OTHERS stands for an unknown version."""
        return tuple(sorted(self._names.get(version, OTHERS) for version in versions))

    def snapshot(self) -> tuple[AdapterCounts, ...]:
        """Return the counts in the order of first use. Returns the same tuple as before if nothing has changed."""
        if self._told is None:
            self._told = tuple(
                AdapterCounts(name, c.requests, c.hits, c.loads, c.evictions, c.last_used)
                for name, c in self._counts.items()
            )
        return self._told

    def _of(self, ref: AdapterRef) -> _Counts:
        self._told = None
        if ref.version not in self._names:
            self._names[ref.version] = ref.name
            if len(self._names) > _VERSIONS:
                del self._names[next(iter(self._names))]
        full = ref.name not in self._counts and len(self._counts) >= NAMES
        return self._counts.setdefault(OTHERS if full else ref.name, _Counts())
