"""Answers for Together's clients, choice by choice."""

from __future__ import annotations

from typing import Any

from edgelora.calls import HeldCalls
from edgelora.core import Candidate, FinishReason, ScoredToken, TextDelta
from edgelora.server.chat_wording import ChatWording, Manner
from edgelora.server.completions import CompletionWording
from edgelora.server.together_wording import TogetherChat, TogetherCompletion, by_token
from edgelora.server.wording import Said

CALLS = ('{"name": "a", "para', 'meters": {"x": ', '1}}; {"name": "b", "parameters": ', "{}}")


def scored(piece: bytes, start: int, *top: Candidate) -> ScoredToken:
    return ScoredToken(Candidate(len(piece), piece, -0.5), top, start)


def delta(text: str, *tokens: ScoredToken) -> TextDelta:
    return TextDelta(text, tokens)


def caller() -> TogetherChat:
    return TogetherChat(ChatWording(Manner(reader=lambda: HeldCalls(("a", "b")))))


def calls_in(said: list[Said]) -> list[tuple[Any, ...]]:
    deltas: list[Any] = [one.fields["delta"] for one in said]
    found = [call for each in deltas for call in each.get("tool_calls", ())]
    assert all(call["id"] and call["type"] == "function" for call in found)
    return [(call["index"], call["function"]["name"], call["function"]["arguments"]) for call in found]


def test_a_call_comes_whole() -> None:
    """In one chunk, as soon as another begins or the answer ends; nothing is told twice."""
    wording = caller()
    told = [list(wording.more(TextDelta(text))) for text in CALLS]
    assert [len(one) for one in told] == [0, 0, 1, 0] and calls_in(told[2]) == [(0, "a", '{"x": 1}')]
    ending = wording.closing(FinishReason.STOP)
    assert calls_in(list(ending.said)) == [(1, "b", "{}")]
    assert ending.said[-1].fields == {"delta": {}} and ending.reason == "tool_calls"


def test_a_call_that_was_cut_is_told() -> None:
    """With the arguments that there are, at the end."""
    wording = caller()
    assert all(not wording.more(TextDelta(text)) for text in CALLS[:2])
    ending = wording.closing(FinishReason.LENGTH)
    assert calls_in(list(ending.said)) == [(0, "a", '{"x": ')] and ending.reason == "length"


def test_calls_of_a_whole_answer_are_numbered() -> None:
    """OpenAI's have no index there."""
    message: Any = caller().whole([TextDelta(text) for text in CALLS], FinishReason.STOP).said[-1].fields["message"]
    assert [call["index"] for call in message["tool_calls"]] == [0, 1]


def test_a_chunk_for_each_scored_token_of_a_chat() -> None:
    """Each with the text that begins with it; text before its token is shown to the end has no score."""
    wording = TogetherChat(ChatWording(Manner(logprobs=True)))
    (early,) = wording.more(delta("Hi"))
    assert early == Said({"delta": {"content": "Hi"}})
    top = Candidate(9, b"?", -0.1)
    first, second = wording.more(delta(" you", scored(b"Hi ", 0, top), scored(b"you", 3)))
    assert first == Said({"delta": {"content": " ", "token_id": 3}, "top_logprobs": {"?": -0.1, "Hi ": -0.5}}, -0.5)
    assert second == Said({"delta": {"content": "you", "token_id": 3}}, -0.5)


def test_lists_of_a_whole_chat() -> None:
    """OpenAI's stay beside them; the one mapping of likeliest tokens is there where there is one token."""
    top = Candidate(9, b"?", -0.1)
    wording = TogetherChat(ChatWording(Manner(logprobs=True)))
    said = wording.whole([delta("ab", scored(b"a", 0, top), scored(b"b", 1, top))], FinishReason.STOP).said[-1]
    scores: Any = said.logprobs
    assert (scores["tokens"], scores["token_ids"], scores["token_logprobs"]) == (["a", "b"], [1, 1], [-0.5, -0.5])
    assert len(scores["content"]) == 2 and scores["top_logprobs"] is None
    single = wording.whole([delta("a", scored(b"a", 0, top))], FinishReason.STOP).said[-1].logprobs
    assert isinstance(single, dict) and single["top_logprobs"] == {"?": -0.1, "a": -0.5}


def test_streamed_text_is_a_token_late() -> None:
    """So that the last has the end beside it. What has no token of its own stands with the next, or the last."""
    wording = TogetherCompletion(CompletionWording("Say: "))
    assert not wording.opening() and not wording.more(delta("a", scored(b"a", 0)))
    (first,) = wording.more(delta("", scored(b"", 1)))
    assert first.fields["text"] == "Say: a" and first.logprobs is None
    assert not wording.more(delta("b"))
    ending = wording.closing(FinishReason.STOP)
    assert ending.reason == "stop" and ending.said[-1].fields == {
        "text": "b",
        "token": {"id": 0, "logprob": -0.5, "special": True, "text": ""},
    }


def test_an_answer_of_no_tokens_has_none() -> None:
    """Which token ended it is not known: none is made up."""
    wording = TogetherCompletion(CompletionWording("Say"))
    wording.opening()
    assert wording.closing(FinishReason.STOP).said == (Said({"text": "Say"}),)


def test_text_is_shared_out_by_where_tokens_begin() -> None:
    """A character of several tokens goes to the last of them, and nothing is lost or doubled."""
    tokens = [scored(b"\xc3", 4), scored(b"\xa9", 4), scored(b" x", 5)]
    assert [text for text, _ in by_token("é x", tokens, at=4)] == ["", "é", " x"]
    assert [text for text, _ in by_token("", tokens, at=9)] == ["", "", ""]
