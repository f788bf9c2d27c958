"""Together's clients get replies in its dialect, and no other client does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.server import RunningServer

CHAT: dict[str, Any] = {"model": "medical-faq", "messages": [{"role": "user", "content": "Hi"}]}
AGENT = {"User-Agent": "Together/Python 2.42.0"}


def test_whole_answers_have_a_prompt(server: RunningServer) -> None:
    """Chats and completions have one; other clients get none."""
    body = server.post("/v1/chat/completions", CHAT, AGENT).json
    assert body["prompt"] == [] and body["object"] == "chat.completion"
    text = {"model": "tiny", "prompt": "Hi", "max_tokens": 2}
    assert server.post("/v1/completions", text, AGENT).json["object"] == "text.completion"
    plain = server.post("/v1/completions", text).json
    assert plain["object"] == "text_completion" and "prompt" not in plain


@pytest.mark.parametrize("agent", ["Together/Python 3.1.1", "AsyncTogether/Python 2.42.0", "OpenAI/Python 3.54.0"])
def test_every_delta_has_a_role(server: RunningServer, agent: str) -> None:
    """OpenAI's have it in the first alone."""
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    frames = server.post("/v1/chat/completions", body, {"User-Agent": agent}).body.decode().split("\n\n")[:-2]
    deltas = [choice["delta"] for frame in frames for choice in json.loads(frame[6:])["choices"]]
    assert all("role" in delta for delta in deltas) is ("Together" in agent)
    assert "".join(delta.get("content", "") for delta in deltas) == "Hypertension is high blood pressure."


def frames_of(server: RunningServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    lines = server.post(path, body, AGENT).body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line[6:]) for line in lines[:-2] if line.startswith("data: ")]


@pytest.mark.parametrize("logprobs", [None, 2])
def test_streamed_text_has_a_token_in_every_chunk(server: RunningServer, logprobs: int | None) -> None:
    """With the end and the usage in the last; scores stand in the choice only where they were asked for."""
    body = {"model": "me/a:v1", "prompt": "Hi", "logprobs": logprobs, "max_tokens": 6}
    chunks = frames_of(server, "/v1/completions", body)
    assert {chunk["object"] for chunk in chunks} == {"completion.chunk"}
    assert "".join(chunk["token"]["text"] for chunk in chunks) == "A name"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "A name"
    assert [chunk["finish_reason"] for chunk in chunks] == [None] * 5 + ["length"]
    assert [chunk["usage"] is None for chunk in chunks] == [True] * 5 + [False]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert all(isinstance(choice["logprobs"], float) is (logprobs is not None) for choice in choices)
    assert all(("top_logprobs" in choice) is (logprobs is not None) for choice in choices)


def test_streamed_text_with_echo(server: RunningServer) -> None:
    """The prompt stands in the first token's chunk, though scores and it cannot both be asked for."""
    body = {"model": "me/a:v1", "prompt": "Hi: ", "echo": True, "max_tokens": 2}
    chunks = frames_of(server, "/v1/completions", body)
    assert [(chunk["choices"][0]["text"], chunk["token"]["text"]) for chunk in chunks] == [("Hi: A", "A"), (" ", " ")]


def test_a_number_of_logprobs_in_a_chat(server: RunningServer) -> None:
    """Together's clients may send a number; from others it is refused."""
    assert server.post("/v1/chat/completions", {**CHAT, "logprobs": 2}).status == 400
    unstreamed = server.post("/v1/chat/completions", {**CHAT, "logprobs": 2}, AGENT).json["choices"][0]["logprobs"]
    assert "".join(unstreamed["tokens"]) == "Hypertension is high blood pressure."
    assert {len(choice["top_logprobs"]) for choice in unstreamed["content"]} == {2}
    chunks = frames_of(server, "/v1/chat/completions", {**CHAT, "logprobs": 2})
    scored = [choice for chunk in chunks for choice in chunk["choices"] if choice["logprobs"] is not None]
    assert [choice["logprobs"] for choice in scored] == unstreamed["token_logprobs"]
    assert [choice["delta"]["token_id"] for choice in scored] == unstreamed["token_ids"]
