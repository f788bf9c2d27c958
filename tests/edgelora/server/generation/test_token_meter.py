"""Tokens count against a caller's limits as they are used: the prompt first, and nothing that was never computed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgelora.core.events import Finished, FinishReason, TextDelta, Timings, Usage
from edgelora.engine.stream import Stream
from edgelora.server.auth.caller import Call, set_call
from edgelora.server.generation.token_meter import TokenMeter

DELTA = TextDelta("a")


@pytest.fixture
def charged() -> Iterator[list[int]]:
    """Every charge so far."""
    charges: list[int] = []
    set_call(Call(charge=charges.append))
    yield charges
    set_call(Call())


def streams(*prompts: int, placed: bool = True) -> list[Stream]:
    made = []
    for number, tokens in enumerate(prompts):
        stream = Stream(str(number), lambda _id: None)
        stream.prompt_tokens, stream.placed = tokens, placed
        made.append(stream)
    return made


def finished(completion: int) -> Finished:
    return Finished(FinishReason.STOP, Usage(7, completion, 0), Timings(0, 0, 0, 0))


def test_a_whole_answer_is_counted_once(charged: list[int]) -> None:
    """Prompt, each token, and those that no text showed, such as the end of the turn."""
    meter = TokenMeter(streams(7), prompts=1)
    assert charged == [7]
    for event in (DELTA, DELTA, finished(3)):
        meter.event(0, event)
    meter.close()
    assert sum(charged) == 10


def test_a_client_that_hangs_up_has_used_its_prompt(charged: list[int]) -> None:
    """And the tokens that came until then."""
    meter = TokenMeter(streams(7), prompts=1)
    meter.event(0, DELTA)
    meter.close()
    assert sum(charged) == 8


def test_a_prompt_that_was_never_computed_is_given_back(charged: list[int]) -> None:
    """The request waited, and its client left or the queue was full."""
    TokenMeter(streams(7, placed=False), prompts=1).close()
    assert charged == [7, -7]


def test_choices_share_their_prompt(charged: list[int]) -> None:
    """Two prompts of two choices each: two prompts, and the answers of all four."""
    four = streams(7, 7, 5, 5)
    four[2].placed = four[3].placed = False
    meter = TokenMeter(four, prompts=2)
    assert charged == [12]
    for choice in range(2):
        meter.event(choice, finished(4))
    meter.close()
    assert sum(charged) == 7 + 2 * 4
