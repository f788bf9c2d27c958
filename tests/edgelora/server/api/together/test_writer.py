"""Answers for Together's clients, choice by choice."""

from __future__ import annotations

from typing import Any

from edgelora.core.events import Candidate, FinishReason, ScoredToken, TextDelta
from edgelora.server.api.openai.chat_writer import ChatFormat, ChatWriter
from edgelora.server.api.openai.completions import CompletionWriter
from edgelora.server.api.together.writer import TogetherChatWriter, TogetherCompletionWriter, by_token
from edgelora.server.generation.choice_writer import Delta
from edgelora.text.tool_parser import ForcedCallParser

CALLS = ('{"name": "a", "para', 'meters": {"x": ', '1}}; {"name": "b", "parameters": ', "{}}")


def scored(piece: bytes, start: int, *top: Candidate) -> ScoredToken:
    return ScoredToken(Candidate(len(piece), piece, -0.5), top, start)


def delta(text: str, *tokens: ScoredToken) -> TextDelta:
    return TextDelta(text, tokens)


def caller() -> TogetherChatWriter:
    return TogetherChatWriter(ChatWriter(ChatFormat(make_parser=lambda: ForcedCallParser(("a", "b")))))


def calls_in(parts: list[Delta]) -> list[tuple[Any, ...]]:
    deltas: list[Any] = [part.fields["delta"] for part in parts]
    calls = [call for each in deltas for call in each.get("tool_calls", ())]
    assert all(call["id"] and call["type"] == "function" for call in calls)
    return [(call["index"], call["function"]["name"], call["function"]["arguments"]) for call in calls]


def test_a_call_comes_whole() -> None:
    """In one chunk, as soon as another begins or the answer ends; nothing is told twice."""
    writer = caller()
    deltas = [list(writer.more(TextDelta(text))) for text in CALLS]
    assert [len(parts) for parts in deltas] == [0, 0, 1, 0] and calls_in(deltas[2]) == [(0, "a", '{"x": 1}')]
    ending = writer.closing(FinishReason.STOP)
    assert calls_in(list(ending.deltas)) == [(1, "b", "{}")]
    assert ending.deltas[-1].fields == {"delta": {}} and ending.reason == "tool_calls"


def test_a_call_that_was_cut_short_is_sent() -> None:
    """With the arguments that there are, at the end."""
    writer = caller()
    assert all(not writer.more(TextDelta(text)) for text in CALLS[:2])
    ending = writer.closing(FinishReason.LENGTH)
    assert calls_in(list(ending.deltas)) == [(0, "a", '{"x": ')] and ending.reason == "length"


def test_calls_of_a_whole_answer_are_numbered() -> None:
    """OpenAI's have no index there."""
    message: Any = (
        caller().whole_choice([TextDelta(text) for text in CALLS], FinishReason.STOP).deltas[-1].fields["message"]
    )
    assert [call["index"] for call in message["tool_calls"]] == [0, 1]


def test_a_chunk_for_each_scored_token_of_a_chat() -> None:
    """Each with the text that begins with it; text before its token is shown to the end has no score."""
    writer = TogetherChatWriter(ChatWriter(ChatFormat(logprobs=True)))
    (early,) = writer.more(delta("Hi"))
    assert early == Delta({"delta": {"content": "Hi"}})
    top = Candidate(9, b"?", -0.1)
    first, second = writer.more(delta(" you", scored(b"Hi ", 0, top), scored(b"you", 3)))
    assert first == Delta({"delta": {"content": " ", "token_id": 3}, "top_logprobs": {"?": -0.1, "Hi ": -0.5}}, -0.5)
    assert second == Delta({"delta": {"content": "you", "token_id": 3}}, -0.5)


def test_lists_of_a_whole_chat() -> None:
    """OpenAI's stay beside them; the one mapping of likeliest tokens is there where there is one token."""
    top = Candidate(9, b"?", -0.1)
    writer = TogetherChatWriter(ChatWriter(ChatFormat(logprobs=True)))
    last = writer.whole_choice([delta("ab", scored(b"a", 0, top), scored(b"b", 1, top))], FinishReason.STOP).deltas[-1]
    scores: Any = last.logprobs
    assert (scores["tokens"], scores["token_ids"], scores["token_logprobs"]) == (["a", "b"], [1, 1], [-0.5, -0.5])
    assert len(scores["content"]) == 2 and scores["top_logprobs"] is None
    single = writer.whole_choice([delta("a", scored(b"a", 0, top))], FinishReason.STOP).deltas[-1].logprobs
    assert isinstance(single, dict) and single["top_logprobs"] == {"?": -0.1, "a": -0.5}


def test_streamed_text_is_a_token_late() -> None:
    """So that the last has the end beside it. What has no token of its own stands with the next, or the last."""
    writer = TogetherCompletionWriter(CompletionWriter("Say: "))
    assert not writer.opening() and not writer.more(delta("a", scored(b"a", 0)))
    (first,) = writer.more(delta("", scored(b"", 1)))
    assert first.fields["text"] == "Say: a" and first.logprobs is None
    assert not writer.more(delta("b"))
    ending = writer.closing(FinishReason.STOP)
    assert ending.reason == "stop" and ending.deltas[-1].fields == {
        "text": "b",
        "token": {"id": 0, "logprob": -0.5, "special": True, "text": ""},
    }


def test_an_answer_of_no_tokens_has_none() -> None:
    """The token that ended the answer is not known, so the chunk has none."""
    writer = TogetherCompletionWriter(CompletionWriter("Say"))
    writer.opening()
    assert writer.closing(FinishReason.STOP).deltas == (Delta({"text": "Say"}),)


def test_text_is_shared_out_by_where_tokens_begin() -> None:
    """A character of several tokens goes to the last of them, and nothing is lost or doubled."""
    tokens = [scored(b"\xc3", 4), scored(b"\xa9", 4), scored(b" x", 5)]
    assert [text for text, _ in by_token("é x", tokens, at=4)] == ["", "é", " x"]
    assert [text for text, _ in by_token("", tokens, at=9)] == ["", "", ""]
