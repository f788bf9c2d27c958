"""The number of drafted tokens in a step, decided from measured seconds and chances.

A draft costs rows of a step, and what a step costs by its rows is measured (`costs`). Where reading the weights is what
takes the time, a few more rows cost next to nothing; where arithmetic does, two rows take as long as two steps, and
hardly any draft pays. Both come out of the same comparison: tokens per second of the step.

What is drafted never changes an answer: a token is chosen as always, from the logits after the token before it, and a
drafted one stands only where it is the very token that was chosen. So greedy answers are the same, sampled ones have
the same distribution (the speculative sampling of Leviathan et al. and of Chen et al., 2023, for a draft that is
certain of its token), and a seed gives the same answer with and without, as far as the base computes a row alike in
steps of different sizes.
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
"""Drafted tokens in one step at most, over all sequences: with the one that is chosen, 16 rows."""
GAIN = 1.1
"""Drafts are computed where the step's tokens per second are expected to be at least so many times those without."""
LONGEST = 3.25
"""The gap that a step with drafts may make, by the step without: more than prompts may, as it brings several tokens."""
TRIES = 1 / 128
"""Steps that trying sizes whose cost is not known may lose, at worst and on average, for each step."""
MOST_AT_STAKE = 2.0
"""The same, in steps, for one try."""
REPRICE = 16
"""Steps after which prices are asked for again."""


@dataclass(frozen=True, slots=True)
class StepPrice:
    """The time of a step of some rows."""

    seconds: float
    known: bool
    """Measured often enough, and lately. Else it is the most that it can take, by what was measured of others."""


@dataclass(frozen=True, slots=True)
class DraftCandidate:
    """A sequence that decodes in the step, and may have `room` more tokens after the next."""

    request_id: str
    prompt_lookup: PromptLookup
    room: int


@dataclass(frozen=True, slots=True)
class Drafts:
    tokens: dict[str, tuple[int, ...]]
    """By request id, what is computed behind its next token; without those that draft nothing."""
    stake: float = 0.0
    """The most that trying may lose, in steps; 0 where it pays by all that is known."""

    @property
    def rows(self) -> int:
        return sum(map(len, self.tokens.values()))


NO_DRAFTS = Drafts({})


class DraftBudget:
    """The knowledge of drafts and step costs, and the choice for a step. Changed by the scheduler alone."""

    def __init__(self) -> None:
        self.drafted = self.accepted = 0
        """Tokens since the start: computed as drafts, and of those the ones that came."""
        self._everyone = Acceptance()
        self._prices: dict[int, StepPrice | None] = {}
        self._steps = 0
        self._credit = 1.0

    def prompt_lookup(self) -> PromptLookup:
        """For a new sequence."""
        return PromptLookup(Acceptance(self._everyone))

    def choose(
        self, sequences: Iterable[DraftCandidate], *, costs: StepCosts, rows: int, answers: int, room: int
    ) -> Drafts:
        """Return what makes the step's tokens per second greatest, of at most `room` tokens. Changes nothing.

        `rows`: of the step without drafts, of which `answers` are answers' tokens; each counts for a token, a prompt's
        too. With drafts the step takes no longer than one with prompts may take beside those answers.
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
        """A step begins that was planned with so much at stake."""
        self._credit = min(MOST_AT_STAKE, self._credit + TRIES) - stake
        self._steps += 1
        if self._steps % REPRICE == 0:
            self._prices.clear()

    def computed(self, draft: tuple[int, ...], rejected: tuple[int, ...]) -> None:
        """A draft was computed, and its end, `rejected`, did not come."""
        self.drafted += len(draft)
        self.accepted += len(draft) - len(rejected)

    def _best(self, chances: Sequence[float], *, costs: StepCosts, rows: int, answers: int) -> tuple[int, float]:
        """Return how many of the drafted tokens, likeliest first, to compute; and what is at stake."""
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
    """Return the price; None where nothing is known of such a step."""
    seconds = costs.known(rows)
    most = costs.at_most(rows) if seconds is None else seconds
    return None if most is None else StepPrice(most, seconds is not None)
