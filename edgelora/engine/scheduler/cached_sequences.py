"""Cached KV of ended requests, and the requests that may reuse it. It only counts and compares; the engine cuts.

A cached sequence is a sequence id whose KV holds exactly `tokens`. The KV of a position depends on the tokens up to it
and on every adapter that began at or before it: its version, weight and start. Where two sequences differ, the KV
before that position is still the same, so an aLoRA reuses the base's or another adapter's KV up to its invocation.
Slots do not matter: the cached KV of an evicted adapter stays valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgelora.core.kv import Key, common_length, parting


@dataclass(frozen=True, slots=True)
class CachedSequence:
    id: int
    key: Key
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    cached: CachedSequence
    length: int
    """Number of positions with the same KV, at least 1."""


class CachedSequences:
    """The cached sequences; iteration starts at the least recently used."""

    def __init__(self) -> None:
        self._held: dict[int, CachedSequence] = {}
        """Cached sequences by id, in the order they were added."""
        self.cells = 0
        """Number of KV cells over all cached sequences."""

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[CachedSequence]:
        return iter(tuple(self._held.values()))

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(self._held)

    def keep(self, sequence_id: int, key: Key, tokens: list[int]) -> None:
        """Cache a sequence. `tokens`: everything its KV holds, at least one; the caller no longer changes the list."""
        if sequence_id in self._held or not tokens:
            raise RuntimeError(f"sequence {sequence_id} with {len(tokens)} tokens cannot be kept")
        self._held[sequence_id] = CachedSequence(sequence_id, key, tokens)
        self.cells += len(tokens)

    def remove(self, sequence_id: int) -> None:
        """Remove a sequence that is reused or given up."""
        self.cells -= len(self._held.pop(sequence_id).tokens)

    def check_integrity(self) -> None:
        """Raises RuntimeError if the cells are inconsistent."""
        counted = sum(len(sequence.tokens) for sequence in self._held.values())
        if counted != self.cells or any(number != sequence.id for number, sequence in self._held.items()):
            raise RuntimeError(f"{self.cells} cached cells, counted {counted}")


def best_match(held: Iterable[CachedSequence], key: Key, tokens: list[int]) -> PrefixMatch | None:
    """Return the longest proper prefix of `tokens` whose KV under `key` is cached; the first one of equal length.

    The last token is always left to compute, because its logits are needed.
    """
    limit, best = len(tokens) - 1, None
    for sequence in held:
        reach = min(limit, parting(sequence.key, key))
        length = min(reach, common_length(sequence.tokens, tokens)) if reach else 0
        if length > (best.length if best else 0):
            best = PrefixMatch(sequence, length)
    return best
