"""The log-probabilities of an answer's tokens, each released with the text it is part of. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgelora.core.events import Candidate, ScoredToken
from edgelora.engine.sampling.truncation import Logits, top

LEAST = -9999.0
"""Stand-in for the logarithm of zero, which JSON cannot represent, as in OpenAI's API."""


def score(logits: Logits, token: int, *, count: int, piece: Callable[[int], bytes], start: int) -> ScoredToken:
    """Return `token` and the `count` likeliest tokens, scored by the softmax of `logits` [vocab] in float64.

    `piece` returns a token's bytes.
    """
    highest = float(logits.max())
    total = highest + float(np.log(np.exp(logits.astype(np.float64) - highest).sum()))

    def candidate(one: int) -> Candidate:
        return Candidate(one, piece(one), max(LEAST, float(logits[one]) - total))

    likeliest = top(logits, count).tolist() if count else []
    return ScoredToken(candidate(token), tuple(map(candidate, likeliest)), start)


@dataclass(frozen=True, slots=True)
class _PendingToken:
    token: ScoredToken
    end: int


class Logprobs:
    """The scored tokens of one answer, in order, each held until its text is shown. Positions are in characters."""

    def __init__(self) -> None:
        self._waiting: deque[_PendingToken] = deque()

    def add(self, token: ScoredToken, *, end: int) -> None:
        """Add a token. `end`: number of characters of the answer that have a byte at or before this token's last."""
        self._waiting.append(_PendingToken(token, end))

    def take(self, shown: int) -> tuple[ScoredToken, ...]:
        """Remove and return the tokens whose text is completely shown, while more may follow."""
        return tuple(self._shift() for _ in range(sum(waiting.end <= shown for waiting in self._waiting)))

    def take_last(self, shown: int) -> tuple[ScoredToken, ...]:
        """Remove all tokens at the end of the answer; return those whose text is at least partly shown."""
        rest = tuple(waiting.token for waiting in self._waiting if waiting.token.start < shown)
        self._waiting.clear()
        return rest

    def _shift(self) -> ScoredToken:
        return self._waiting.popleft().token
