"""Is one setting faster than another? Pure: times in, a verdict out.

Two settings are timed in turn, round by round, and compared within each round: a minute in which the machine is busy
falls on both, and one bad step spoils one round and no average. A difference counts where the median round shows a
margin and the sign test (how likely are so many rounds of one kind by chance?) leaves 5% or less to chance.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CHANCE = 0.05
MARGIN = 0.03
"""Minimum relative difference that justifies a change."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A candidate compared with the default over paired rounds."""

    ratio: float
    """Median over the rounds of the candidate's time divided by the default's; below 1 the candidate is faster."""
    rounds: int
    faster: int
    """Number of rounds in which the candidate was faster."""
    slower: int

    def surely_faster(self, margin: float = MARGIN) -> bool:
        return self.ratio <= 1 - margin and chance(self.faster, self.rounds) <= CHANCE

    def surely_slower(self, margin: float = MARGIN) -> bool:
        return self.ratio >= 1 / (1 - margin) and chance(self.slower, self.rounds) <= CHANCE


def judge(candidate: Sequence[float], default: Sequence[float]) -> Verdict:
    """Return the verdict from seconds of the same rounds in order.

    Raises ValueError if empty or of different length.
    """
    ratios = [candidate_seconds / other for candidate_seconds, other in zip(candidate, default, strict=True)]
    if not ratios:
        raise ValueError("nothing was measured")
    faster, slower = sum(ratio < 1 for ratio in ratios), sum(ratio > 1 for ratio in ratios)
    return Verdict(statistics.median(ratios), len(ratios), faster, slower)


def chance(wins: int, rounds: int) -> float:
    """Return the probability of at least `wins` wins if neither is faster: the one-sided sign test."""
    return float(sum(math.comb(rounds, count) for count in range(wins, rounds + 1)) / 2**rounds)
