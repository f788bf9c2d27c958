"""Drafts through the whole engine: no event of any stream tells of them, usage's own counts aside."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora.backends.base import Applied, Chunk
from edgelora.core.events import Event, Failed, Finished, FinishReason, TextDelta
from edgelora.core.request import Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.scheduler.plan import Cut
from tests.support.fake_backend.backend import EOT, FAKE_CAPABILITIES, FakeBackend
from tests.support.repeating import Repeating
from tests.support.stepped import SteppedEngine

ABLE = replace(FAKE_CAPABILITIES, context_length=60, kv_cells=150, max_step_tokens=24)
LETTERS = np.array([*b"abc", EOT])


class Chancy(Repeating):
    """The next token is likely and not certain: four are possible, and what is drawn depends on seed and sampling."""

    def logits_after(self, adapters: Sequence[Applied], tokens: Sequence[int]) -> NDArray[np.float32]:
        digest = hashlib.blake2b(repr(list(tokens)).encode(), digest_size=8).digest()
        logits = np.full(self.tokenizer.size, -np.inf, np.float32)
        logits[LETTERS] = np.random.default_rng(int.from_bytes(digest, "big")).normal(size=4).astype(np.float32)
        logits[EOT] -= 3
        logits[self.next_token(adapters, tokens)] = 2.0
        return logits


def run(backend: FakeBackend, requests: Sequence[Request], *, speculate: bool, every: int = 0) -> SteppedEngine:
    """All of them to their end; a new one each `every` turns, or all at once."""
    engine = SteppedEngine(backend, adapter_budget_bytes=1, max_queue=50, speculate=speculate)
    for request in requests:
        engine.submit(request)
        for _ in range(every):
            engine.turn()
            engine.scheduler.check_integrity()
    engine.finish(turns=5000, check=engine.scheduler.check_integrity)
    assert not backend.violations
    return engine


def told(engine: SteppedEngine) -> dict[str, list[Event | str]]:
    """Every stream without times, and without what drafts and warm KV saved."""
    streams: dict[str, list[Event | str]] = {}
    for name, stream in engine.streams.items():
        events: list[Event | str] = []
        for event in stream:
            if isinstance(event, Finished):
                usage = replace(event.usage, drafted_tokens=0, accepted_tokens=0, cached_tokens=0)
                events.append(f"{event.reason} {usage}")
            else:
                events.append(str(event.error) if isinstance(event, Failed) else event)
        streams[name] = events
    return streams


samplings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_k=st.sampled_from([0, 2]),
    top_p=st.sampled_from([1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.1]),
    repeat_penalty=st.sampled_from([1.0, 1.3]),
    repeat_last_n=st.sampled_from([0, 3, 64]),
    presence_penalty=st.sampled_from([0.0, 0.4]),
    frequency_penalty=st.sampled_from([0.0, -0.3]),
    logit_bias=st.sampled_from([(), ((97, 1.0), (98, -0.5))]),
    logprobs=st.sampled_from([None, 0, 2]),
    min_tokens=st.sampled_from([0, 6]),
    ignore_eos=st.sampled_from([False, False, True]),
    stop_token_ids=st.sampled_from([(), (99,)]),
    include_stop=st.booleans(),
    seed=st.integers(0, 3),
    max_tokens=st.one_of(st.none(), st.integers(1, 30)),
    stop=st.sampled_from([(), ("cab",), ("aa", "bcb")]),
).filter(lambda params: params.min_tokens <= (params.max_tokens or params.min_tokens))
prompts = st.lists(st.sampled_from(b"abc"), min_size=1, max_size=40).map(tuple)


@settings(deadline=None, max_examples=120)
@given(work=st.lists(st.tuples(prompts, samplings), min_size=1, max_size=6), every=st.integers(0, 5))
def test_no_stream_tells_of_drafts(work: list[tuple[tuple[int, ...], SamplingParams]], every: int) -> None:
    """Greedy and with a seed, with penalties, stop strings and every limit, alone and side by side, however scarce KV
    is: the same text in the same pieces, the same end, the same usage."""
    requests = [Request(f"r{n}", prompt, (), sampling) for n, (prompt, sampling) in enumerate(work)]
    plain = run(Chancy(capabilities=ABLE), requests, speculate=False, every=every)
    draft_candidates = run(Chancy(capabilities=ABLE), requests, speculate=True, every=every)
    assert told(draft_candidates) == told(plain)
    chosen = {name: [token for token, _ in pairs] for name, pairs in plain.chosen.items()}
    assert {name: [token for token, _ in pairs] for name, pairs in draft_candidates.chosen.items()} == chosen


def test_the_property_is_about_drafts() -> None:
    """With that fake many drafts are computed; some come whole, some in part, some not at all; and steps are saved."""
    requests = [
        Request(f"r{n}", tuple(b"abcab"[n % 3 :]), (), SamplingParams(temperature=0.7, seed=n, max_tokens=40))
        for n in range(20)
    ]
    plain = run(Chancy(capabilities=ABLE), requests, speculate=False)
    draft_candidates = run(Chancy(capabilities=ABLE), requests, speculate=True)
    stats = draft_candidates.stats()
    assert 50 < stats.accepted < stats.drafted - 50
    assert draft_candidates.stats().tokens == plain.stats().tokens and stats.steps < 0.8 * plain.stats().steps


def repeat(answer: str, prompt: str, **sampling: object) -> tuple[SteppedEngine, Finished, str]:
    engine = run(
        FakeBackend(answers={None: answer}),
        [Request("r", tuple(prompt.encode()), (), replace(SamplingParams(), **sampling))],  # type: ignore[arg-type]
        speculate=True,
    )
    *texts, last = engine.streams["r"]
    assert isinstance(last, Finished)
    return engine, last, "".join(event.text for event in texts if isinstance(event, TextDelta))


TEXT = "the answer copies all of this, word for word"


def test_a_copied_answer_takes_few_steps() -> None:
    """Most tokens come as accepted drafts; the counts in usage add up to the steps."""
    engine, end, text = repeat(TEXT, f"{TEXT}: ")
    assert text == TEXT and end.usage.completion_tokens == len(TEXT) + 1
    assert end.usage.accepted_tokens > 0.7 * len(TEXT)
    # One step for the prompt, one for each token that was not drafted.
    assert engine.stats().steps == end.usage.completion_tokens - end.usage.accepted_tokens
    assert (engine.stats().drafted, engine.stats().accepted) == (end.usage.drafted_tokens, end.usage.accepted_tokens)


@pytest.mark.parametrize("limit", range(1, len(TEXT) + 3))
def test_max_tokens_inside_a_draft(limit: int) -> None:
    """Nothing is drafted that the answer may not have, and the last token may have is the last there is."""
    engine, end, text = repeat(TEXT, f"{TEXT}: ", max_tokens=limit)
    assert text == TEXT[:limit] and end.usage.completion_tokens == min(limit, len(TEXT) + 1)
    assert end.reason is (FinishReason.LENGTH if limit <= len(TEXT) else FinishReason.STOP)
    assert all(chunk.position + len(chunk.tokens) < len(TEXT) + 2 + limit for step in steps(engine) for chunk in step)


@pytest.mark.parametrize("stop", [TEXT[9:12], TEXT[20:21], TEXT[-3:]])
def test_a_stop_string_inside_a_draft(stop: str) -> None:
    """What was accepted behind it is dropped: it is not in the text, and not in usage."""
    _, end, text = repeat(TEXT, f"{TEXT}: ", stop=(stop,))
    assert text == TEXT[: TEXT.index(stop)] and end.reason is FinishReason.STOP
    assert end.usage.completion_tokens == TEXT.index(stop) + len(stop)


def test_the_context_ends_inside_a_draft() -> None:
    """No chunk goes beyond it, and the answer is as long as without drafts."""
    able = replace(FAKE_CAPABILITIES, context_length=80, kv_cells=80)
    request = Request("r", tuple(f"{TEXT}: ".encode()), (), SamplingParams())
    answers: list[str] = []
    for speculate in (False, True):
        backend = FakeBackend(answers={None: TEXT}, capabilities=able)
        engine = run(backend, [request], speculate=speculate)
        answers.append("".join(chr(token) for token, _ in engine.chosen["r"]))
    assert answers == [TEXT[: 80 - len(TEXT) - 2]] * 2


def test_kv_with_a_rejected_end_is_warm_for_what_it_holds() -> None:
    """A request that ends in the middle of a draft leaves KV of tokens that never came: the next one has only what it
    shares with it."""
    backend = FakeBackend(answers={None: TEXT})
    first = Request("first", tuple(f"{TEXT}: ".encode()), (), SamplingParams(stop=("all",)))
    engine = run(backend, [first], speculate=True)
    (held,) = backend.kv.values()
    said = [token for token, _ in engine.chosen["first"]]
    assert len(held) > len(first.prompt) + len(said), "the draft went on behind the stop"
    engine.submit(Request("next", (*first.prompt, *said, *b"! more"), (), SamplingParams(max_tokens=3)))
    engine.finish(turns=50)
    assert isinstance(end := list(engine.streams["next"])[-1], Finished)
    assert end.usage.cached_tokens == len(first.prompt) + len(said) and not backend.violations


def test_a_cancel_after_a_rejected_draft_leaves_known_kv() -> None:
    """Between a step and the next one KV holds rejected tokens: they are counted, and never gone on from."""
    backend = Chancy(capabilities=ABLE)
    engine = SteppedEngine(backend, adapter_budget_bytes=1, max_queue=9, speculate=True)
    engine.submit(Request("r", tuple(b"abcabcab"), (), SamplingParams(temperature=1.5, seed=1)))
    while not any(sequence.rejected for sequence in engine.scheduler._live.values()):
        engine.turn()
    (held,) = (list(tokens) for tokens in backend.kv.values())
    engine.cancel("r")
    engine._obey(wait=False)
    engine.scheduler.check_integrity()
    assert [warm.tokens for warm in engine.scheduler._allocator.cached] == [held]


def test_kv_from_disk_gets_no_cell_of_a_rejected_draft() -> None:
    """It arrives between two steps, when what was rejected is not cut yet."""
    engine = SteppedEngine(Chancy(capabilities=ABLE), adapter_budget_bytes=1, max_queue=9, speculate=True)
    engine.submit(Request("r", tuple(b"abcabcab"), (), SamplingParams(temperature=1.5, seed=1)))
    while not any(sequence.rejected for sequence in engine.scheduler._live.values()):
        engine.turn()
    (sequence,) = engine.scheduler._live.values()
    left = ABLE.kv_cells - len(sequence.tokens) - len(sequence.rejected)
    assert engine.scheduler.make_room(left + 1) is None
    room = engine.scheduler.make_room(left)
    engine.scheduler.fill_room(room, frozenset(), list(range(left)))
    engine.scheduler.check_integrity()


def test_the_cut_comes_with_the_next_step() -> None:
    """Rejected tokens leave the KV by a move of the plan, before anything else is computed."""
    backend = Chancy(capabilities=ABLE)
    engine = SteppedEngine(backend, adapter_budget_bytes=1, max_queue=9, speculate=True)
    engine.submit(Request("r", tuple(b"abcabcab"), (), SamplingParams(temperature=1.5, seed=1)))
    cuts = 0
    for _ in range(40):
        before = {s.id: s.computed for s in engine.scheduler._live.values() if s.rejected}
        engine.turn()
        if engine.plan is not None:
            moves = [move for move in engine.plan.moves if isinstance(move, Cut) and move.length]
            assert {move.sequence: move.length for move in moves} == before
            cuts += len(moves)
    assert cuts > 3 and not backend.violations


def test_damaged_logits_inside_a_draft_fail_where_they_would_have() -> None:
    """What came before is shown, as without drafts; rows behind a rejected token are not looked at."""

    class Damaged(FakeBackend):
        def logits_after(self, adapters: Sequence[Applied], tokens: Sequence[int]) -> NDArray[np.float32]:
            spoilt = len(tokens) == 2 * len(TEXT) - 8
            return super().logits_after(adapters, tokens) + np.float32(np.nan if spoilt else 0)

    request = Request("r", tuple(f"{TEXT}: ".encode()), (), SamplingParams())
    plain, draft_candidates = (
        told(run(Damaged(answers={None: TEXT}), [request], speculate=speculate)) for speculate in (False, True)
    )
    assert draft_candidates == plain and any("not a number" in str(event) for event in plain["r"])
    assert len(plain["r"]) > 20


def test_a_failed_step_with_drafts_fails_its_request_alone() -> None:
    """Its KV is cleared, drafts and all, and the next request goes well."""
    request = Request("r", tuple(f"{TEXT}: ".encode()), (), SamplingParams())
    history = steps(run(FakeBackend(answers={None: TEXT}), [request], speculate=True))
    backend = FakeBackend(answers={None: TEXT})
    backend.fail_steps = {next(n for n, (chunk,) in enumerate(history) if chunk.logits > 1)}
    engine = run(backend, [request, replace(request, id="next")], speculate=True)
    assert backend.history[min(backend.fail_steps)][0].logits > 1
    last = told(engine)["r"][-1]
    assert isinstance(last, str) and "told to fail" in last
    engine.turn()
    assert backend.kv == {}


def steps(engine: SteppedEngine) -> list[tuple[Chunk, ...]]:
    backend = engine._backend
    assert isinstance(backend, FakeBackend)
    return backend.history
