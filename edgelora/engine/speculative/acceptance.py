"""The acceptance rate of drafted tokens by length of the match, with old observations fading. Pure."""

from __future__ import annotations

UNKNOWN = (0.2, 0.4, 0.6, 0.8)
"""Prior acceptance rate for matches of 2 tokens, up to 4, up to 8, and longer.

A cautious guess suffices: drafted tokens that were not computed are observed as well, so no tries are needed to learn.
"""
_OWN, _ALL = 0.9, 0.98
"""Decay of an observation with each later one: for one sequence, and for all together."""
_WEIGHT = 2.0
"""Number of observations that the prior counts for."""


class Acceptance:
    """The rates of one sequence, with those of `everyone` as prior; without it, those of all sequences together."""

    def __init__(self, everyone: Acceptance | None = None) -> None:
        self._everyone = everyone
        self._kept = _ALL if everyone is None else _OWN
        self._seen = [0.0] * len(UNKNOWN)
        self._right = [0.0] * len(UNKNOWN)

    def note(self, length: int, right: bool) -> None:
        """Note whether a match of `length` tokens was followed by the drafted token."""
        place = _class_of(length)
        self._seen[place] = self._seen[place] * self._kept + 1
        self._right[place] = self._right[place] * self._kept + right
        if self._everyone is not None:
            self._everyone.note(length, right)

    def chance(self, length: int) -> float:
        """Return the probability that the token after a match of `length` tokens is the drafted one."""
        place = _class_of(length)
        before = UNKNOWN[place] if self._everyone is None else self._everyone.chance(length)
        return (self._right[place] + _WEIGHT * before) / (self._seen[place] + _WEIGHT)


def _class_of(length: int) -> int:
    return min(len(UNKNOWN), (length - 1).bit_length()) - 1
