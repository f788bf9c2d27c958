"""Constraints through the whole engine: beside answers without one, with drafts, to the end or cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.errors import UsageError
from edgelora.core.events import Failed, Finished, FinishReason
from edgelora.core.request import Request
from edgelora.core.sampling_params import Constraint, SamplingParams
from edgelora.core.tokenizer import Tokenizer
from edgelora.engine.sampling.guided_decoding import GuidedDecoder, guided_decoder
from edgelora.text.schema_grammar import of_schema
from tests.edgelora.engine.speculative.test_engine import Chancy, run, told
from tests.support.fake_backend.backend import EOT, FAKE_CAPABILITIES, FakeBackend
from tests.support.stepped import SteppedEngine, outcome


def lark(rule: str) -> Constraint:
    return Constraint(json.dumps({"grammars": [{"lark_grammar": f"start: /{rule}/"}]}))


PATTERNS = [lark("(ab|ca){1,12}"), lark("a(b|c)*(cab|bca)"), lark("[abc]{3,20}"), lark("abc")]


def slow(backend: FakeBackend, prompt: Sequence[int], constraint: Constraint | None, most: int) -> tuple[int, ...]:
    """The greedy answer token by token: of the likeliest the first that a guide of its own, told everything so far,
    does not refuse."""
    answer: tuple[int, ...] = ()
    while len(answer) < most:
        ranked = np.argsort(-backend.logits_after((), [*prompt, *answer]), kind="stable").tolist()
        token = next(token for token in ranked if fits(constraint, (*answer, token), backend.tokenizer))
        if token == EOT:
            break
        answer += (token,)
        held = guided_decoder(constraint, backend.tokenizer)
        if held is not None and done(held, answer):
            break
    return answer


def fits(constraint: Constraint | None, answer: Sequence[int], tokenizer: Tokenizer) -> bool:
    held = guided_decoder(constraint, tokenizer)
    try:
        for token in answer if held is not None else ():
            held.accept(token)
    except UsageError:
        return False
    return True


def done(held: GuidedDecoder, answer: Sequence[int]) -> bool:
    for token in answer:
        held.accept(token)
    return held.complete


def texts(engine: SteppedEngine) -> dict[str, str]:
    return {name: outcome(stream)[0] for name, stream in engine.streams.items()}


@settings(deadline=None, max_examples=8)
@given(
    st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=12), st.sampled_from([None, *PATTERNS]), st.integers(1, 10)),
        min_size=1,
        max_size=4,
    )
)
def test_side_by_side_each_is_as_alone(work: list[tuple[str, Constraint | None, int]]) -> None:
    """Answers with and without constraints in the same steps, drafts and all: each what the slow reference writes."""
    requests = [
        Request(f"r{n}", tuple(prompt.encode()), (), SamplingParams(constraint=constraint, max_tokens=most))
        for n, (prompt, constraint, most) in enumerate(work)
    ]
    able = replace(FAKE_CAPABILITIES, context_length=60, kv_cells=150, max_step_tokens=24)
    answers = texts(run(Chancy(capabilities=able), requests, speculate=True))
    for request, (_, constraint, most) in zip(requests, work, strict=True):
        wanted = slow(Chancy(capabilities=able), request.prompt, constraint, most)
        assert answers[request.id] == bytes(wanted).decode()


def test_drafts_obey_and_save_steps() -> None:
    """With a seed, hot and held: the same events with drafts and without; many drafts come, forbidden ones never."""
    sampling = SamplingParams(temperature=0.7, max_tokens=40)
    requests = [
        Request(f"r{n}", tuple(b"abcab"), (), replace(sampling, seed=n, constraint=lark("([ab]{2,3}|ca|abc){8,30}")))
        for n in range(12)
    ]
    able = replace(FAKE_CAPABILITIES, context_length=60)
    plain = run(Chancy(capabilities=able), requests, speculate=False)
    draft_candidates = run(Chancy(capabilities=able), requests, speculate=True)
    assert told(draft_candidates) == told(plain)
    stats = draft_candidates.stats()
    assert 20 < stats.accepted < stats.drafted - 20 and stats.steps < plain.stats().steps


def ask(answer: str, constraint: Constraint, **sampling: object) -> tuple[str, Finished | Failed, FakeBackend]:
    backend = FakeBackend(answers={None: answer})
    asked = replace(SamplingParams(constraint=constraint), **sampling)  # type: ignore[arg-type]
    engine = run(backend, [Request("r", (1, 2), (), asked)], speculate=False)
    return *outcome(engine.streams["r"]), backend


NAMED = of_schema(
    {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False},
    param="response_format",
)


def test_an_answer_ends_where_nothing_may_follow() -> None:
    """With its last brace, without a step for an end token; the model's own end before that does not count."""
    text, end, backend = ask('{"name": "Ann"}', NAMED)
    assert text == '{"name": "Ann"}' and isinstance(end, Finished) and end.reason is FinishReason.STOP
    assert end.usage.completion_tokens == len(text) == len(backend.history)
    text, end, _ = ask("", NAMED, logit_bias=((ord('"'), 5.0),))
    assert json.loads(text) == {"name": ""} and isinstance(end, Finished) and end.reason is FinishReason.STOP


def test_only_the_length_cuts_it() -> None:
    """The reason says that it is not whole."""
    text, end, _ = ask('{"name": "Ann"}', NAMED, max_tokens=9)
    assert text == '{"name": ' and isinstance(end, Finished) and end.reason is FinishReason.LENGTH
    text, end, _ = ask('{"name": "Ann"}', NAMED, max_tokens=15)
    assert text == '{"name": "Ann"}' and isinstance(end, Finished) and end.reason is FinishReason.STOP


def test_a_grammar_that_cannot_be_held_to_is_refused_at_once() -> None:
    """Before it is queued; nothing was taken in."""
    engine = SteppedEngine(FakeBackend(), adapter_budget_bytes=1, max_queue=5)
    with pytest.raises(UsageError) as caught:
        engine.submit(Request("r", (1,), (), SamplingParams(constraint=Constraint('{"grammars": []}'))))
    assert caught.value.code == "unsupported_schema" and not engine.live


def test_one_that_becomes_too_costly_ends_its_own_answer_only() -> None:
    """The others of the step go on."""
    costly = of_schema({"type": "string", "pattern": "^(a|b|[c-x]{1,500}|(foo|bar)*){1,300}$"}, param="x")
    bad = Request(
        "bad", tuple(b"x"), (), SamplingParams(constraint=costly, temperature=5.0, seed=1, logit_bias=((34, -100.0),))
    )
    good = Request("good", tuple(b"Hi"), (), SamplingParams(max_tokens=30))
    engine = run(FakeBackend(answers={None: "Hello."}), [bad, good], speculate=False)
    failed, finished = outcome(engine.streams["bad"])[1], outcome(engine.streams["good"])
    assert isinstance(failed, Failed) and isinstance(failed.error, UsageError)
    assert failed.error.code == "unsupported_schema" and finished[0] == "Hello."
