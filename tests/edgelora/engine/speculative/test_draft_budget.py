"""How much is drafted: what pays by measured steps and chances, on machines of every kind, without harm to others."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.request import Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.cost_model.prefill_chunks import TRY
from edgelora.engine.cost_model.step_costs import FRESH, StepCosts
from edgelora.engine.speculative.acceptance import Acceptance
from edgelora.engine.speculative.draft_budget import DRAFT_ROWS, GAIN, NO_DRAFTS, DraftBudget, DraftCandidate, Drafts
from edgelora.engine.speculative.prompt_lookup import PromptLookup
from tests.support.fake_backend.backend import FakeBackend
from tests.support.stepped import SteppedEngine

Seconds = Callable[[int], float]


def bandwidth(rows: int) -> float:
    """Reading the weights takes the time: a row more costs a fiftieth of a step."""
    return 0.1 + 0.002 * (rows - 1)


def arithmetic(rows: int) -> float:
    """Each row costs a step."""
    return 0.1 * rows


def laptop(rows: int) -> float:
    """An 8B base on 2 cores, as it was measured: 2 rows as slow as 2 steps, 4 and 16 less so."""
    return float(np.interp(rows, [1, 2, 4, 8, 16, 64], [0.13, 0.256, 0.4, 0.85, 1.31, 5.0]))


def between(rows: int) -> float:
    """Half of a step of 5 rows is arithmetic."""
    return 0.1 + 0.02 * rows


class Measured(StepCosts):
    """Learns from steps as they are on such a machine, and adds up what they took."""

    def __init__(self, seconds: Seconds) -> None:
        super().__init__()
        self._model = seconds
        self.elapsed = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        super().observe(rows, self._model(rows))
        self.elapsed += self._model(rows)


def costs_of(seconds: Seconds, *, rows: range) -> StepCosts:
    """Each of these sizes measured often enough."""
    costs = Measured(seconds)
    for _ in range(8):
        for size in rows:
            costs.observe(size, 0.0)
    return costs


def copying(chance: float, *, room: int = 99, name: str = "r") -> DraftCandidate:
    """A sequence of which every drafted token is about so likely to be right."""
    everyone = Acceptance()
    for n in range(1000):
        everyone.note(20, n % 100 < 100 * chance)
    prompt_lookup = PromptLookup(Acceptance(everyone))
    prompt_lookup.read([*range(100), *range(50)])
    return DraftCandidate(name, prompt_lookup, room)


def choose(*sequences: DraftCandidate, costs: StepCosts, rows: int = 1, answers: int = 1, room: int = 99) -> Drafts:
    return DraftBudget().choose(sequences, costs=costs, rows=rows, answers=answers, room=room)


def test_where_rows_are_free_the_draft_is_long() -> None:
    """As long as its last token is worth its row; and it is what followed."""
    costs = costs_of(bandwidth, rows=range(1, 33))
    assert choose(copying(0.99), costs=costs).tokens["r"] == tuple(range(50, 50 + DRAFT_ROWS))
    assert 1 <= choose(copying(0.5), costs=costs).rows <= 5
    assert choose(copying(0.02), costs=costs) == NO_DRAFTS


def test_where_each_row_costs_a_step_nothing_is_drafted() -> None:
    """However sure it is: two tokens of one step take as long as those of two."""
    assert choose(copying(0.99), costs=costs_of(arithmetic, rows=range(1, 33))) == NO_DRAFTS


def test_a_size_that_pays_is_found_beyond_one_that_does_not() -> None:
    """Two rows cost two steps and four cost three: three tokens are drafted, or none."""
    costs = costs_of(laptop, rows=range(1, 33))
    assert choose(copying(0.97), costs=costs).rows == 3
    assert choose(copying(0.7), costs=costs) == NO_DRAFTS


def test_the_likeliest_tokens_of_all_drafts_get_the_room() -> None:
    """A sure draft goes far before a doubtful one begins; nobody's room, nor the step's, is overdrawn."""
    costs = costs_of(bandwidth, rows=range(1, 33))
    sure, doubtful = copying(0.97, name="sure"), copying(0.6, name="doubtful")
    chosen = choose(sure, doubtful, costs=costs, rows=2, answers=2).tokens
    assert len(chosen["sure"]) > 2 * len(chosen["doubtful"]) > 0
    assert sum(map(len, chosen.values())) <= DRAFT_ROWS
    assert choose(sure, costs=costs, room=4).rows == 4
    assert choose(copying(0.97, room=2), costs=costs).rows == 2
    for sequence, room in ((copying(0.97, room=0), 9), (sure, 0), (sure, -1)):
        assert choose(sequence, costs=costs, room=room) == NO_DRAFTS


def test_nothing_is_drafted_before_the_step_without_is_known() -> None:
    """Three steps tell what it takes; and after many others it is measured again."""
    costs = Measured(bandwidth)
    for _ in range(3):
        assert choose(copying(0.97), costs=costs) == NO_DRAFTS
        costs.observe(1, 0.0)
    assert choose(copying(0.97), costs=costs).rows > 0
    for _ in range(FRESH + 1):
        costs.observe(4, 0.0)
    assert choose(copying(0.97), costs=costs) == NO_DRAFTS


def test_a_step_of_many_rows_gains_less() -> None:
    """A prompt's rows are tokens too: what would pay alone does not where the step is long by others' work."""
    costs = costs_of(arithmetic, rows=range(1, 65))
    cheap = costs_of(between, rows=range(1, 65))
    assert choose(copying(0.97), costs=cheap).rows > choose(copying(0.97), costs=cheap, rows=20).rows
    assert choose(copying(0.97), costs=costs, rows=20) == NO_DRAFTS


@settings(deadline=None, max_examples=150)
@given(
    seconds=st.lists(st.floats(0.0, 0.3), min_size=40, max_size=40),
    chances=st.lists(st.floats(0.05, 0.99), min_size=1, max_size=3),
    prompt=st.integers(0, 20),
)
def test_what_is_chosen_pays_and_keeps_the_gap(seconds: list[float], chances: list[float], prompt: int) -> None:
    """On any machine whose larger steps are no faster: tokens a second rise, and no step is longer than a prompt's may
    be."""
    ladder = [0.1 + sum(seconds[:n]) for n in range(41)]
    answers, rows = len(chances), len(chances) + prompt
    costs = costs_of(lambda size: ladder[min(size, 40)], rows=range(1, 41))
    sequences = [copying(chance, name=str(n)) for n, chance in enumerate(chances)]
    chosen = choose(*sequences, costs=costs, rows=rows, answers=answers, room=40 - rows)
    if chosen.rows:
        tokens = rows + sum(sum(s.prompt_lookup.chances(len(chosen.tokens.get(s.request_id, ())))) for s in sequences)
        together, alone = costs.known(rows + chosen.rows), costs.known(rows)
        assert together and alone and tokens / together >= GAIN * rows / alone
        assert together <= TRY * costs.at_least(answers) + 0.01
        assert chosen.stake == 0


class Story(FakeBackend):
    """A vocabulary wide enough for answers that repeat nothing; `script` is said from the end of the prompt on."""

    script: tuple[int, ...] = ()
    prompt = 0

    def next_token(self, adapters: object, tokens: object) -> int:
        said = len(tokens) - self.prompt  # type: ignore[arg-type]
        return self.script[said] if said < len(self.script) else next(iter(self.tokenizer.end_ids))


def elapsed(machine: Seconds, script: list[int], prompt: list[int], *, speculate: bool, answers: int = 3) -> float:
    """Seconds of such a machine for the same answer, one request after another in one engine."""
    backend = Story()
    backend.script, backend.prompt = tuple(script), len(prompt)
    engine = SteppedEngine(backend, adapter_budget_bytes=1, max_queue=2, speculate=speculate)
    engine.scheduler.costs = costs = Measured(machine)
    for n in range(answers):
        engine.submit(Request(f"r{n}", tuple(prompt), (), SamplingParams()))
        engine.finish(turns=2000)
        assert [token for token, _ in engine.chosen[f"r{n}"]][:-1] == script
    return costs.elapsed


rng = np.random.default_rng(5)
NOISE = rng.integers(0, 250, 200).tolist()
PAGE = rng.integers(0, 250, 200).tolist()
QUOTES = [token for n in range(0, 200, 20) for token in (*PAGE[n : n + 14], 251, 252, 253)]
ACCIDENTS = rng.integers(0, 6, 200).tolist()
"""Pairs repeat all the time, and nothing follows from them."""


@pytest.mark.parametrize("machine", [bandwidth, between, laptop, arithmetic])
@pytest.mark.parametrize("script", [PAGE, QUOTES, NOISE, ACCIDENTS], ids=["copy", "quotes", "noise", "accidents"])
def test_it_is_never_slower_to_speak_of(machine: Seconds, script: list[int]) -> None:
    """Whatever is said and whatever rows cost, learning included: within 3%."""
    with_drafts, without = (elapsed(machine, script, PAGE, speculate=speculate) for speculate in (True, False))
    assert with_drafts <= 1.03 * without


def test_it_pays_where_rows_are_cheap_and_the_answer_copies() -> None:
    """Several times as fast where reading weights is the cost; a little where 4 rows cost 3; nothing else changes."""

    def ratio(machine: Seconds, script: list[int]) -> float:
        return elapsed(machine, script, PAGE, speculate=True) / elapsed(machine, script, PAGE, speculate=False)

    assert ratio(bandwidth, PAGE) < 0.3 and ratio(bandwidth, QUOTES) < 0.5
    assert ratio(laptop, PAGE) < 0.95
    assert 0.99 < ratio(arithmetic, PAGE) < 1.03 and 0.97 < ratio(bandwidth, NOISE) < 1.03


def test_tries_are_few() -> None:
    """On a machine where no draft pays, sizes are tried with a budget: it does not grow with the steps."""
    lost = [
        elapsed(arithmetic, PAGE, PAGE, speculate=True, answers=answers)
        - elapsed(arithmetic, PAGE, PAGE, speculate=False, answers=answers)
        for answers in (1, 2, 4)
    ]
    assert all(seconds < 0.1 * (2.5 + 200 * answers / 128) for seconds, answers in zip(lost, (1, 2, 4), strict=True))


def test_others_gaps_keep_their_bound() -> None:
    """Beside a copying sequence, and a prompt on its way: no step is longer than the decoding ones' by more than a
    prompt may make it, once the step alone is known."""
    backend = FakeBackend(answers={None: "the answer copies all of this, word for word, and once more. " * 3})
    engine = SteppedEngine(backend, adapter_budget_bytes=1, max_queue=9, speculate=True)
    engine.scheduler.costs = Measured(between)
    prompt = tuple(backend.answers[None].encode())
    for n in range(3):
        engine.submit(Request(f"r{n}", (*prompt, 65 + n), (), SamplingParams()))
    worst, drafted = 0.0, 0
    while engine.live:
        engine.turn()
        rows = engine.plan.rows if engine.plan else ()
        answers, drafts = sum(row.chunk.position > len(prompt) for row in rows), sum(len(row.draft) for row in rows)
        drafted += drafts
        if drafts and engine.plan:
            worst = max(worst, between(engine.plan.tokens) / between(answers))
    assert drafted > 50 and 1 < worst <= TRY


def test_prices_follow_the_machine() -> None:
    """Another program takes the memory's bandwidth: within a few dozen steps nothing is drafted any more."""
    costs = costs_of(bandwidth, rows=range(1, 33))
    draft_budget = DraftBudget()

    def drafted() -> int:
        return draft_budget.choose([copying(0.97)], costs=costs, rows=1, answers=1, room=99).rows

    counts = [drafted()]
    costs._model = arithmetic  # type: ignore[attr-defined]
    for _ in range(60):
        for rows in range(1, 17):
            costs.observe(rows, 0.0)
        draft_budget.begin(0.0)
        counts.append(drafted())
    assert counts[0] == DRAFT_ROWS and counts[-1] == 0
    assert all(later <= earlier for earlier, later in pairwise(counts))
