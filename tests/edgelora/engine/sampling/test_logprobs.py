"""How likely the tokens were: by the definition, and told with their text, whatever holds that back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.events import Finished, FinishReason, ScoredToken, TextDelta, Usage
from edgelora.core.request import Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.request_state import Clock, RequestState
from edgelora.engine.sampling.logprobs import LEAST, score
from edgelora.engine.sampling.sampler import Sampler
from edgelora.engine.stream import Stream
from tests.edgelora.engine.sampling.test_sampler import random_logits
from tests.support.fake_backend.tokenizer import EOT, FakeTokenizer

VOCABULARY = FakeTokenizer()


def piece(token: int) -> bytes:
    return b"%d" % token


@pytest.mark.parametrize("size", [5, 128_256])
def test_scores_follow_the_definition(size: int) -> None:
    """logit - log(sum(exp(logits))), the likeliest first, and of equals the lowest id."""
    logits = random_logits(3, size)
    found = score(logits, 2, count=4, piece=piece, start=7)
    whole = math.log(math.fsum(math.exp(float(value)) for value in logits))
    ranked = sorted(range(size), key=lambda token: (-logits[token], token))[:4]
    assert [one.token for one in found.top] == ranked and found.start == 7
    for one in (found.chosen, *found.top):
        assert one.logprob == pytest.approx(float(logits[one.token]) - whole, abs=1e-6)
        assert one.piece == piece(one.token)


def test_a_forbidden_token_has_a_number_too() -> None:
    """Nothing is likely at all in JSON: the same stand-in that OpenAI writes."""
    found = score(np.array([0.0, -np.inf], np.float32), 1, count=2, piece=piece, start=0)
    assert found.chosen.logprob == LEAST and [one.logprob for one in found.top] == [0.0, LEAST]


class Bytes(FakeTokenizer):
    """Each token is the bytes it was made with."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        object.__setattr__(self, "_pieces", pieces)

    __slots__ = ("_pieces",)

    def piece(self, token: int) -> bytes:
        return self._pieces[token] if token < len(self._pieces) else b""  # type: ignore[attr-defined, no-any-return]


def spoken(pieces: list[bytes], stops: tuple[str, ...]) -> list[TextDelta]:
    """The deltas of an answer that says these pieces, one token each, then ends its turn."""
    sampling = SamplingParams(stop=stops, logprobs=1)
    run = RequestState(
        Request("r", (1,), (), sampling), Stream("r", lambda _: None), Sampler(sampling, (1,)), Clock(0.0)
    )
    tokenizer = Bytes(pieces)
    for token in [*range(len(pieces)), EOT]:
        logits = np.zeros((1, tokenizer.size), np.float32)
        logits[0, token] = 9.0
        if run.choose(logits, (), tokenizer)[-1].stop:
            break
    run.finish(FinishReason.STOP, usage=Usage(1, 1), now=0.0)
    return [event for event in run.stream if not isinstance(event, Finished) and isinstance(event, TextDelta)]


def test_tokens_are_told_with_their_text() -> None:
    """A character's bytes wait for each other, a possible stop string for its end; so do their tokens."""
    deltas = spoken([b"a", b"\xc3", b"\xa9E", b"N", b"x"], ("END",))
    assert [(d.text, [t.chosen.piece for t in d.tokens]) for d in deltas] == [
        ("a", [b"a"]),
        ("é", [b"\xc3"]),
        ("ENx", [b"\xa9E", b"N", b"x"]),
    ]
    assert [token.start for delta in deltas for token in delta.tokens] == [0, 1, 1, 3, 4]


def test_what_a_stop_string_swallowed_is_not_told() -> None:
    """The token that is shown in part is, once that is known; those that are not shown at all are not."""
    deltas = spoken([b"ab", b"cE", b"N", b"D", b"x"], ("END",))
    assert [(d.text, [t.chosen.piece for t in d.tokens]) for d in deltas] == [
        ("ab", [b"ab"]),
        ("c", []),
        ("", [b"cE"]),
    ]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from([b"a", b"E", b"N", b"D", b"EN", b"\xf0\x9f", b"\x98", b"\x80", b"\xff", "é".encode()])),
    st.sampled_from([(), ("END",), ("a", "NDa")]),
)
def test_told_is_what_is_shown(pieces: list[bytes], stops: tuple[str, ...]) -> None:
    """Whatever the pieces: tokens in order, each once, none before its text, and with all of the text there is."""
    deltas = spoken(pieces, stops)
    shown, told = 0, list[ScoredToken]()
    for delta in deltas:
        shown += len(delta.text)
        told += delta.tokens
        assert all(token.start < shown for token in told)
    assert [token.chosen.token for token in told] == list(range(len(told)))
    text = "".join(delta.text for delta in deltas)
    whole = b"".join(token.chosen.piece for token in told).decode(errors="replace")
    assert whole.startswith(text)
    if not any(stop in b"".join(pieces).decode(errors="replace") for stop in stops):
        assert len(told) == len(pieces)
