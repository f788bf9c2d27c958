"""Kv."""

from __future__ import annotations

from dataclasses import dataclass
from sys import maxsize


@dataclass(frozen=True, slots=True)
class SavedKv:
    """The KV of a sequence's first tokens, copied out of a backend. Opaque bytes: only `Backend.restore` reads them."""

    identity: str
    """The `kv_identity` of the backend it came from."""
    length: int
    """Tokens."""
    data: memoryview
    """Never changed again."""


Key = frozenset[tuple[tuple[str, str], float, int]]
"""`AdapterUse.key` of all that act in a sequence: (adapter version, weight, start). Empty is the base alone."""
BASE: Key = frozenset()


def parting(one: Key, other: Key) -> int:
    """Return the first position whose KV differs under the two although its tokens are the same; sys.maxsize where
    none."""
    return min((start for _, _, start in one ^ other), default=maxsize)


def common_length(one: list[int], other: list[int]) -> int:
    """Return the length of the common beginning. Bisects and compares slices: no Python per token."""
    same, unknown = 0, min(len(one), len(other))
    while same < unknown:
        middle = (same + unknown + 1) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            unknown = middle - 1
    return same
