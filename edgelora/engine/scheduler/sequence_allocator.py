"""The backend's sequence ids: each is used by a running sequence, free, or cached. No policy of which request runs.

Decides which cached KV is reused and which is given up; cached KV never keeps a request from an id or a cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgelora.engine.scheduler.cached_sequences import CachedSequence, CachedSequences, PrefixMatch, best_match
from edgelora.engine.scheduler.occupancy import Reuse
from edgelora.engine.scheduler.plan import Copy, Cut, Start
from edgelora.engine.scheduler.sequence import Sequence

LITTLE = 8
"""Minimum ratio of reused to lost tokens for which a cached sequence is taken over and its end cut.

Otherwise its prefix is copied and the cached sequence stays.
"""


@dataclass(frozen=True, slots=True)
class Allocation:
    starts: tuple[Start, ...]
    given_up: tuple[int, ...]
    moves: tuple[Cut | Copy, ...]


@dataclass(frozen=True, slots=True)
class AllocatedId:
    """A sequence id that is not in use yet, and the moves of KV required before it is filled."""

    sequence: int
    moves: tuple[Cut | Copy, ...]


class SequenceAllocator:
    def __init__(self, count: int) -> None:
        self.count = count
        self.cached = CachedSequences()
        self.reuse = Reuse()
        self._free = set(range(count))
        self._uncleared: set[int] = set()
        """Free ids whose KV is not cleared yet."""

    @property
    def available(self) -> int:
        """Number of sequences that could start now."""
        return len(self._free) - len(self._uncleared) + len(self.cached)

    def cached_for(self, sequence: Sequence, running: Iterable[Sequence]) -> int:
        """Return how many of its tokens are cached or computed by a running sequence, and so need not be computed."""
        match = best_match([*self.cached, *_computed(running)], sequence.key, sequence.tokens)
        return 0 if match is None else match.length

    def choose(self, newcomers: list[Sequence], *, running: Iterable[Sequence] = (), cells: int) -> Allocation:
        """Return an id for each newcomer, at most `available`, and the moves of cached KV. Changes nothing.

        `running`: sequences whose computed part may be copied. `cells`: KV cells left for cached KV beside all tokens
        of the running sequences, newcomers included.
        """
        computed = _computed(running) if newcomers else []
        chosen = _Allocating(list(self.cached), sorted(self._free - self._uncleared), computed)
        for sequence in newcomers:
            chosen.place(sequence)
        chosen.shrink(cells)
        return Allocation(tuple(chosen.starts), tuple(chosen.given_up), tuple(chosen.moves))

    def make_room(self, length: int, *, cells: int) -> AllocatedId | None:
        """Allocate an id for KV of `length` tokens from elsewhere, giving up the least recently used cached KV for it.

        `cells`: KV cells that running sequences leave. The id stays in use until `cached.keep` or `give_back` receives
        it. Returns None, and changes nothing, if there is no id or there are too few cells.
        """
        if length > cells or not self.available:
            return None
        chosen = _Allocating(list(self.cached), sorted(self._free - self._uncleared), [])
        place = chosen.fresh()
        chosen.shrink(cells - length)
        for sequence_id in chosen.given_up:
            self.give_up(sequence_id)
        self._free.remove(place)
        # What ended since the last turn is still in the KV, and would be in the way.
        return AllocatedId(place, (*(Cut(ended, 0) for ended in self.clears()), *chosen.moves))

    def take(self, start: Start) -> None:
        """Take the id of a start. Call it after all ids that are given up."""
        self.reuse = self.reuse.started(start.reused)
        if start.sequence in self.cached.ids:
            self.cached.remove(start.sequence)
        else:
            self._free.remove(start.sequence)

    def give_up(self, sequence_id: int) -> None:
        """Free a cached id. Its KV must be removed before the next step."""
        self.cached.remove(sequence_id)
        self._free.add(sequence_id)

    def give_back(self, sequence_id: int) -> None:
        """Free an id, which is not allocated again before it is cleared by `cleared` or `clears`."""
        self._free.add(sequence_id)
        self._uncleared.add(sequence_id)

    def cleared(self, sequence_ids: Iterable[int]) -> None:
        """Record that the ids were cleared by other means."""
        self._uncleared.difference_update(sequence_ids)

    def clears(self) -> tuple[int, ...]:
        """Return the ids to be cleared now."""
        ids, self._uncleared = self._uncleared, set()
        return tuple(sorted(ids))

    def check_integrity(self, running: Iterable[int | None]) -> None:
        """Raises RuntimeError if an id is not in exactly one place. `running`: the ids in use."""
        self.cached.check_integrity()
        ids = [*running, *self._free, *self.cached.ids]
        if Counter(ids) != Counter(range(self.count)) or not self._uncleared <= self._free:
            raise RuntimeError(
                f"ids {ids}: {self._free} free, {self._uncleared} to clear, {set(self.cached.ids)} cached"
            )


@dataclass(slots=True)
class _Allocating:
    """An allocation in progress, newcomer by newcomer; `moves` is in the order of execution."""

    spare: list[CachedSequence]
    """Cached sequences that are neither taken over nor given up, least recently used first."""
    free: list[int]
    computed: list[CachedSequence]
    """Prefixes of running sequences, which are copied and never taken over."""
    starts: list[Start] = field(default_factory=list)
    given_up: list[int] = field(default_factory=list)
    moves: list[Cut | Copy] = field(default_factory=list)

    def place(self, sequence: Sequence) -> None:
        match = best_match(self.spare, sequence.key, sequence.tokens)
        shared = best_match(self.computed, sequence.key, sequence.tokens)
        if shared is not None and (match is None or shared.length > match.length):
            place = self.fresh()
            self._start(sequence, place, Copy(shared.cached.id, place, shared.length))
        elif match is not None and (self._costs_little(match) or not (self.free or match.cached is not self.spare[0])):
            self.spare.remove(match.cached)
            self._start(sequence, match.cached.id, Cut(match.cached.id, match.length))
        elif match is not None:
            # Before its source is given up, should it come to that.
            place = self.fresh()
            self._start(sequence, place, Copy(match.cached.id, place, match.length))
        else:
            self.starts.append(Start(sequence.request.id, self.fresh(), 0))

    def shrink(self, cells: int) -> None:
        while sum(len(sequence.tokens) for sequence in self.spare) > cells:
            self.give_up()

    def give_up(self) -> int:
        oldest = self.spare.pop(0).id
        self.given_up.append(oldest)
        self.moves.append(Cut(oldest, 0))
        return oldest

    def _costs_little(self, match: PrefixMatch) -> bool:
        return LITTLE * (len(match.cached.tokens) - match.length) <= match.length

    def fresh(self) -> int:
        return self.free.pop(0) if self.free else self.give_up()

    def _start(self, sequence: Sequence, place: int, move: Cut | Copy) -> None:
        self.moves.append(move)
        self.starts.append(Start(sequence.request.id, place, move.length))
        # For the next newcomer: it has been done by then.
        self.computed.append(CachedSequence(place, sequence.key, sequence.tokens[: move.length]))


def _computed(running: Iterable[Sequence]) -> list[CachedSequence]:
    return [
        CachedSequence(sequence.id, sequence.key, sequence.tokens[: sequence.computed])
        for sequence in running
        if sequence.id is not None and sequence.computed
    ]
