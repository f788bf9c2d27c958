"""What Together's own clients are told in its words, and nobody else is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.server import RunningServer

CHAT: dict[str, Any] = {"model": "medical-faq", "messages": [{"role": "user", "content": "Hi"}]}
AGENT = {"User-Agent": "Together/Python 2.42.0"}


def test_whole_answers_have_a_prompt(server: RunningServer) -> None:
    """Of a chat and of a text; to other clients they have none."""
    body = server.post("/v1/chat/completions", CHAT, AGENT).json
    assert body["prompt"] == [] and body["object"] == "chat.completion"
    text = {"model": "tiny", "prompt": "Hi", "max_tokens": 2}
    assert server.post("/v1/completions", text, AGENT).json["object"] == "text.completion"
    plain = server.post("/v1/completions", text).json
    assert plain["object"] == "text_completion" and "prompt" not in plain


@pytest.mark.parametrize("agent", ["Together/Python 3.1.1", "AsyncTogether/Python 2.42.0", "OpenAI/Python 3.54.0"])
def test_every_delta_has_a_role(server: RunningServer, agent: str) -> None:
    """OpenAI's have it in the first alone."""
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    frames = server.post("/v1/chat/completions", asked, {"User-Agent": agent}).body.decode().split("\n\n")[:-2]
    deltas = [choice["delta"] for frame in frames for choice in json.loads(frame[6:])["choices"]]
    assert all("role" in delta for delta in deltas) is ("Together" in agent)
    assert "".join(delta.get("content", "") for delta in deltas) == "Hypertension is high blood pressure."
