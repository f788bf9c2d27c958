"""Drafts by prompt lookup: an earlier occurrence of a sequence's last tokens, and the tokens that followed it. Pure.

After Saxena, "Prompt Lookup Decoding" (2023): an answer that quotes, edits or lists what is in its prompt, or repeats
itself, is drafted without a second model. The index is that of LZ77 compressors: each pair of tokens leads to its
latest position, and each position to the previous one. So a token costs one entry, however long the prompt is, and a
new pair costs no search.

Owns the drafted tokens and their acceptance rates. `draft_budget` decides how much of a draft is worth computing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from edgelora.engine.speculative.acceptance import Acceptance

LONGEST = 16
"""Maximum number of tokens of a match that are compared: a longer match is hardly any surer."""
LOOKS = 8
"""Maximum number of earlier positions of a pair that are compared, latest first."""


@dataclass(frozen=True, slots=True)
class LookupMatch:
    follows: int
    """Position of the token that followed the earlier occurrence."""
    length: int
    """Number of equal tokens there and at the sequence's end: 2 to LONGEST."""


class PromptLookup:
    """Follows one sequence from its first token on."""

    def __init__(self, acceptance: Acceptance) -> None:
        self.acceptance = acceptance
        self.match: LookupMatch | None = None
        """Longest match of the sequence's last tokens; None if there is none."""
        self._tokens: list[int] = []
        self._latest: dict[tuple[int, int], int] = {}
        """The last position of each pair's second token."""
        self._before: list[int] = []
        """Previous position of the same pair, by position; 0 if there is none."""

    def __len__(self) -> int:
        """Return the number of tokens so far."""
        return len(self._tokens)

    def read(self, tokens: Iterable[int]) -> None:
        """Append tokens of the prompt."""
        for token in tokens:
            self._append(token)
        self.match = self._longest()

    def follow(self, token: int) -> None:
        """Append the answer's next token, and note whether it equals the draft, computed or not."""
        if self.match is not None:
            self.acceptance.note(self.match.length, self._tokens[self.match.follows] == token)
        self._append(token)
        self.match = self._longest()

    def draft(self, count: int) -> tuple[int, ...]:
        """Return the next `count` tokens if the sequence goes on as before, period by period; none without a match."""
        if self.match is None:
            return ()
        start, period = self.match.follows, len(self._tokens) - self.match.follows
        return tuple(self._tokens[start + n % period] for n in range(count))

    def chances(self, count: int) -> list[float]:
        """Return the probability of each of `draft(count)` that it and all before it are accepted. Never increasing."""
        if self.match is None:
            return []
        lengths = range(self.match.length, self.match.length + count)
        return list(accumulate((self.acceptance.chance(length) for length in lengths), mul))

    def _append(self, token: int) -> None:
        here, before = len(self._tokens), 0
        if here:
            pair = (self._tokens[-1], token)
            before = self._latest.get(pair, 0)
            self._latest[pair] = here
        self._before.append(before)
        self._tokens.append(token)

    def _longest(self) -> LookupMatch | None:
        best: LookupMatch | None = None
        place = self._before[-1] if self._before else 0
        for _ in range(LOOKS):
            if not place or (best is not None and best.length == LONGEST):
                break
            length = self._common(place)
            if best is None or length > best.length:
                best = LookupMatch(place + 1, length)
            place = self._before[place]
        return best

    def _common(self, place: int) -> int:
        """Return how many tokens up to `place`, whose pair equals the last one, equal those at the end."""
        tokens, length, most = self._tokens, 2, min(LONGEST, place + 1)
        while length < most and tokens[place - length] == tokens[-1 - length]:
            length += 1
        return length
