"""KV that ended requests left behind, and who may go on from it. Counts and compares only: the cutting is the engine's.

A warm sequence is a sequence id whose KV holds exactly `tokens`. The KV of a position depends on the tokens up to it
and on every adapter that began at or before it: its version, weight and start. What parts two sequences from there on
leaves the KV before the same, so an aLoRA goes on from the base's KV, or another's, up to its invocation. The adapters'
slots do not matter: an evicted adapter's warm KV is still good.
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
    warm: CachedSequence
    length: int
    """Positions whose KV is the same, at least 1."""


class CachedSequences:
    """Iterates from the least recently used on."""

    def __init__(self) -> None:
        self._held: dict[int, CachedSequence] = {}
        """In the order they came."""
        self.cells = 0
        """Tokens of KV over all of them."""

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[CachedSequence]:
        return iter(tuple(self._held.values()))

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(self._held)

    def keep(self, sequence_id: int, key: Key, tokens: list[int]) -> None:
        """`tokens`: all that the sequence's KV holds, never none; the caller changes the list no more."""
        if sequence_id in self._held or not tokens:
            raise RuntimeError(f"sequence {sequence_id} with {len(tokens)} tokens cannot be kept")
        self._held[sequence_id] = CachedSequence(sequence_id, key, tokens)
        self.cells += len(tokens)

    def remove(self, sequence_id: int) -> None:
        """It is taken over, or given up."""
        self.cells -= len(self._held.pop(sequence_id).tokens)

    def check_integrity(self) -> None:
        """Raises RuntimeError where the cells do not add up."""
        counted = sum(len(warm.tokens) for warm in self._held.values())
        if counted != self.cells or any(number != warm.id for number, warm in self._held.items()):
            raise RuntimeError(f"{self.cells} warm cells, counted {counted}")


def best_match(held: Iterable[CachedSequence], key: Key, tokens: list[int]) -> PrefixMatch | None:
    """Return the longest prefix of `tokens`, never all of them, whose KV under `key` is warm; the first of equals.

    The last token is always left to compute: its logits are wanted.
    """
    limit, best = len(tokens) - 1, None
    for warm in held:
        reach = min(limit, parting(warm.key, key))
        length = min(reach, common_length(warm.tokens, tokens)) if reach else 0
        if length > (best.length if best else 0):
            best = PrefixMatch(warm, length)
    return best
