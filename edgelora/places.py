"""The backend's sequence ids: each is in use by a running sequence, or free, or warm. No policy of who runs.

Which warm KV is reused and which is given up is decided here; warm KV never keeps anybody from a place or a cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from edgelora.plan import Start
from edgelora.sequence import Sequence
from edgelora.warm import Match, WarmSequences


class Places:
    def __init__(self, count: int) -> None:
        self.count = count
        self.warm = WarmSequences()
        self._free = set(range(count))
        self._uncleared: set[int] = set()
        """Free ids whose KV is still there."""

    @property
    def available(self) -> int:
        """How many sequences could start now."""
        return len(self._free) - len(self._uncleared) + len(self.warm)

    def choose(self, starts: list[Sequence], *, cells: int) -> tuple[list[Start], list[int]]:
        """An id for each that starts, at most `available`, and the warm ids given up for them or for their cells.

        `cells`: what is left for warm KV beside all tokens of everyone running, these included. Changes nothing.
        """
        matches = self._matches(starts)
        reused = {match.id for match in matches.values()}
        spare = [warm for warm in self.warm if warm.id not in reused]
        left = sum(len(warm.tokens) for warm in spare)
        ids, given_up = sorted(self._free - self._uncleared), []
        for warm in spare:
            if len(ids) >= len(starts) - len(matches) and left <= cells:
                break
            ids.append(warm.id)
            given_up.append(warm.id)
            left -= len(warm.tokens)
        fresh = iter(ids)
        found = [(sequence.request.id, matches.get(sequence.request.id)) for sequence in starts]
        return [Start(name, m.id, m.length) if m else Start(name, next(fresh), 0) for name, m in found], given_up

    def take(self, start: Start) -> None:
        if start.reused:
            self.warm.remove(start.sequence)
        else:
            self._free.remove(start.sequence)

    def give_up(self, sequence_id: int) -> None:
        """A warm id is free. Its KV must be cut before the next step."""
        self.warm.remove(sequence_id)
        self._free.add(sequence_id)

    def give_back(self, sequence_id: int) -> None:
        """An id is free, and not given out before `cleared` or `clears` has named it."""
        self._free.add(sequence_id)
        self._uncleared.add(sequence_id)

    def cleared(self, sequence_ids: Iterable[int]) -> None:
        """They are cleared otherwise."""
        self._uncleared.difference_update(sequence_ids)

    def clears(self) -> tuple[int, ...]:
        """The ids to be cleared now."""
        ids, self._uncleared = self._uncleared, set()
        return tuple(sorted(ids))

    def check_integrity(self, running: Iterable[int | None]) -> None:
        """Raises RuntimeError where an id is not in exactly one place; `running`: the ids in use."""
        self.warm.check_integrity()
        ids = [*running, *self._free, *self.warm.ids]
        if Counter(ids) != Counter(range(self.count)) or not self._uncleared <= self._free:
            raise RuntimeError(f"ids {ids}: {self._free} free, {self._uncleared} to clear, {set(self.warm.ids)} warm")

    def _matches(self, starts: list[Sequence]) -> dict[str, Match]:
        """By request id; the oldest chooses first."""
        matches: dict[str, Match] = {}
        taken: set[int] = set()
        for sequence in starts:
            match = self.warm.match(sequence.key, sequence.tokens, without=taken)
            if match is not None:
                matches[sequence.request.id] = match
                taken.add(match.id)
        return matches
