"""The number of drafted tokens in a step, decided from measured seconds and acceptance rates.

A draft costs rows of a step, and the cost of a step by its rows is measured (`costs`). If reading the weights
dominates, a few more rows cost almost nothing; if arithmetic does, two rows take as long as two steps, and hardly any
draft pays off. The same comparison covers both: tokens per second of the step.

Drafts never change an answer: each token is chosen as always, from the logits after the token before it, and a drafted
token is accepted only if it is the chosen one. So greedy answers are the same, sampled ones have the same distribution
(the speculative sampling of Leviathan et al. and of Chen et al., 2023, for a draft that is certain of its token), and a
seed gives the same answer with and without drafts, as far as the base computes a row alike in steps of different sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from edgelora.engine.cost_model.prefill_chunks import TRY, UNNOTICED
from edgelora.engine.cost_model.step_costs import StepCosts
from edgelora.engine.speculative.acceptance import Acceptance
from edgelora.engine.speculative.prompt_lookup import PromptLookup

DRAFT_ROWS = 15
"""Maximum drafted tokens in one step over all sequences: with the chosen one, 16 rows."""
GAIN = 1.1
"""Minimum expected ratio of tokens per second with drafts to those without, below which drafts are not computed."""
LONGEST = 3.25
"""Maximum gap of a step with drafts by the step without: more than for prompts, as it brings several tokens."""
TRIES = 1 / 128
"""Steps that trying sizes of unknown cost may lose on average per step, in the worst case."""
MOST_AT_STAKE = 2.0
"""Maximum steps that a single try may lose."""
REPRICE = 16
"""Number of steps after which cached prices are recomputed."""


@dataclass(frozen=True, slots=True)
class StepPrice:
    """The duration of a step of some rows."""

    seconds: float
    known: bool
    """True if measured often and recently enough; otherwise `seconds` is an upper bound from other sizes."""


@dataclass(frozen=True, slots=True)
class DraftCandidate:
    """A sequence that decodes in the step and may have `room` more tokens after the next."""

    request_id: str
    prompt_lookup: PromptLookup
    room: int


@dataclass(frozen=True, slots=True)
class Drafts:
    tokens: dict[str, tuple[int, ...]]
    """Draft tokens by request id, computed behind its next token; without requests that draft nothing."""
    stake: float = 0.0
    """Maximum steps that trying may lose; 0 if the drafts pay off by all known costs."""

    @property
    def rows(self) -> int:
        return sum(map(len, self.tokens.values()))


NO_DRAFTS = Drafts({})


class DraftBudget:
    """Acceptance rates and step prices, and the choice for a step. Changed by the scheduler only."""

    def __init__(self) -> None:
        self.drafted = self.accepted = 0
        """Numbers of draft tokens computed and of draft tokens accepted since the start."""
        self._everyone = Acceptance()
        self._prices: dict[int, StepPrice | None] = {}
        self._steps = 0
        self._credit = 1.0

    def prompt_lookup(self) -> PromptLookup:
        """Return the prompt lookup of a new sequence."""
        return PromptLookup(Acceptance(self._everyone))

    def choose(
        self, sequences: Iterable[DraftCandidate], *, costs: StepCosts, rows: int, answers: int, room: int
    ) -> Drafts:
        """Return the drafts, at most `room` tokens, that maximize the step's tokens per second. Changes nothing.

        `rows`: rows of the step without drafts, of which `answers` are answers' tokens; each row counts as one token,
        also those of prompts. The step takes at most LONGEST times the step of those
        answers, or UNNOTICED seconds more; a try of an unknown size at most TRY times.
        """
        able = [s for s in sequences if s.prompt_lookup.match is not None]
        room = max(0, min(room, DRAFT_ROWS))
        chances = ((chance, n) for n, s in enumerate(able) for chance in s.prompt_lookup.chances(min(room, s.room)))
        # Likeliest first; of one draft that is also the order of its tokens.
        ranked = sorted(chances, key=lambda pair: -pair[0])[:room]
        count, stake = self._best([chance for chance, _ in ranked], costs=costs, rows=rows, answers=answers)
        lengths = [0] * len(able)
        for _, n in ranked[:count]:
            lengths[n] += 1
        drafts = {
            s.request_id: s.prompt_lookup.draft(length) for s, length in zip(able, lengths, strict=True) if length
        }
        return Drafts(drafts, stake) if drafts else NO_DRAFTS

    def begin(self, stake: float) -> None:
        """Record the start of a step that was planned with this stake."""
        self._credit = min(MOST_AT_STAKE, self._credit + TRIES) - stake
        self._steps += 1
        if self._steps % REPRICE == 0:
            self._prices.clear()

    def computed(self, draft: tuple[int, ...], rejected: tuple[int, ...]) -> None:
        """Record a computed draft, whose end `rejected` was not accepted."""
        self.drafted += len(draft)
        self.accepted += len(draft) - len(rejected)

    def _best(self, chances: Sequence[float], *, costs: StepCosts, rows: int, answers: int) -> tuple[int, float]:
        """Return how many of the drafted tokens to compute, likeliest first, and the stake."""
        alone, gap = costs.known(rows), costs.at_least(answers)
        if not (alone and gap) or sum(chances) < (GAIN - 1) * rows:
            return 0, 0.0
        aim, bound = (max(ratio * gap, gap + UNNOTICED) for ratio in (LONGEST, TRY))
        sure = tried = (GAIN * rows / alone, 0, 0.0)
        for count, tokens in enumerate(accumulate(chances, initial=float(rows))):
            price = self._price(rows + count, costs)
            if not count or price is None:
                continue
            if price.seconds <= aim:
                sure = max(sure, (tokens / price.seconds, count, 0.0))
            stake = max(0.0, price.seconds / alone - tokens / rows)
            if not price.known and price.seconds <= bound and stake <= self._credit:
                tried = max(tried, (tokens / alone, count, stake))
        return max(sure, tried)[1:]

    def _price(self, rows: int, costs: StepCosts) -> StepPrice | None:
        if rows not in self._prices:
            self._prices[rows] = price_of(rows, costs)
        return self._prices[rows]


def price_of(rows: int, costs: StepCosts) -> StepPrice | None:
    """Return the price of a step, or None if nothing is known about its size."""
    seconds = costs.known(rows)
    most = costs.at_most(rows) if seconds is None else seconds
    return None if most is None else StepPrice(most, seconds is not None)
