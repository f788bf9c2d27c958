"""The results of calls in a conversation: each stands behind its own call, whatever ids and order a client sends."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelora.text.tools import ToolCall, Turn, exchanges, in_call_order, in_words, one_call_each

USER: Turn = {"role": "user", "content": "?"}
Reply = tuple[str, str]
"""The id that a result has, and its text."""


def caller(*calls: Reply, content: str = "") -> Turn:
    """A message of the assistant with a call for each id; the function's name says what the result must be."""
    return {"role": "assistant", "content": content, "tool_calls": [ToolCall(i, n, "{}").spec(str) for i, n in calls]}


def replies(*given: Reply) -> list[Turn]:
    return [{"role": "tool", "tool_call_id": call_id, "content": text} for call_id, text in given]


def pairs(turns: Sequence[Turn]) -> list[Reply]:
    """Each call's function beside the result that stands behind it, of a conversation with one call a message."""
    separate = one_call_each(turns)
    return [
        (turn["tool_calls"][0]["function"]["name"], separate[index + 1]["content"])
        for index, turn in enumerate(separate)
        if turn.get("tool_calls")
    ]


def test_ids_that_come_again_in_a_later_turn() -> None:
    """Clients number calls anew in every turn; the later turn's results stay with the later turn's calls."""
    first = [caller(("0", "Paris"), ("1", "Rome")), *replies(("0", "Paris"), ("1", "Rome"))]
    later = [caller(("0", "Oslo"), ("1", "Cairo")), *replies(("0", "Oslo"), ("1", "Cairo"))]
    assert all(name == text for name, text in pairs([USER, *first, USER, *later]))


def test_results_in_the_order_of_the_calls() -> None:
    """Functions that run at once return in any order, and most templates show no ids."""
    turns = [USER, caller(("a", "Paris"), ("b", "Rome")), *replies(("b", "Rome"), ("a", "Paris")), USER]
    assert [turn["content"] for turn in in_call_order(turns) if turn["role"] == "tool"] == ["Paris", "Rome"]
    assert in_words(turns, ())[2]["content"].index("Paris") < in_words(turns, ())[2]["content"].index("Rome")


@pytest.mark.parametrize("ids", [("", ""), ("x", "x"), ("x", "y")])
@pytest.mark.parametrize("sent", [("", ""), ("u", "u"), ("u", "v")])
def test_ids_that_tell_nothing(ids: Reply, sent: Reply) -> None:
    """Empty ids, one id for all, or ids that no call has: then the order says which is meant."""
    turns = [caller((ids[0], "Paris"), (ids[1], "Rome")), *replies((sent[0], "Paris"), (sent[1], "Rome"))]
    assert pairs(turns) == [("Paris", "Paris"), ("Rome", "Rome")]


def test_a_result_that_comes_late() -> None:
    """It belongs to the call of its id, though another message has called since."""
    turns = [caller(("slow", "Paris")), caller(("1", "Rome")), *replies(("1", "Rome"), ("slow", "Paris")), USER]
    assert pairs(turns) == [("Paris", "Paris"), ("Rome", "Rome")]


def test_two_results_of_one_call_stay_together() -> None:
    """Behind that call, in the order they were sent."""
    turns = [caller(("a", "Paris"), ("b", "Rome")), *replies(("a", "one"), ("a", "two"), ("b", "Rome"))]
    assert [turn["content"] for turn in one_call_each(turns)] == ["", "one", "two", "", "Rome"]


def test_a_result_without_a_call_stays_where_it_is() -> None:
    """Nothing is lost of a history that was cut off at its beginning."""
    turns = [*replies(("0", "old")), USER]
    assert in_call_order(turns) == turns == one_call_each(turns)


def test_the_text_beside_calls_is_written_once() -> None:
    """With the first of them."""
    separate = one_call_each([caller(("a", "Paris"), ("b", "Rome"), content="Let me look.")])
    assert [turn["content"] for turn in separate] == ["Let me look.", ""]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True), max_size=5), st.randoms())
def test_every_result_has_its_call(rounds: list[list[int]], shuffle: random.Random) -> None:
    """In any number of turns with the same few ids, whatever order each turn's results have."""
    turns: list[Turn] = []
    for number, ids in enumerate(rounds):
        names = [(str(call_id), f"{number}.{call_id}") for call_id in ids]
        answers = shuffle.sample(names, len(names))
        turns += [USER, caller(*names), *replies(*answers)]
    assert all(name == text for name, text in pairs(turns))
    ordered = in_call_order(turns)
    assert sorted(map(id, ordered)) == sorted(map(id, turns))
    assert [len(exchange.results) for exchange in exchanges(turns) if exchange.calls] == [len(ids) for ids in rounds]
