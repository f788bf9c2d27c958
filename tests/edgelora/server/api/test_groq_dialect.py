"""Groq's own client, strict about every shape, reads its fields; other clients' replies have none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import groq
import pytest

from tests.support.server import RunningServer

ASKED: Any = [{"role": "user", "content": "What is hypertension?"}]
CALL = '{"name": "weather", "parameters": {"city": "Bern"}}'
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {"faq": "High blood pressure.", "caller": CALL}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[groq.Groq]:
    with groq.Groq(base_url=server.url, api_key="none", max_retries=0, _strict_response_validation=True) as client:
        yield client


@pytest.mark.parametrize("tier", ["auto", "on_demand", "flex", "performance", None])
def test_a_whole_answer(client: groq.Groq, tier: Any) -> None:
    """Its tier in Groq's words, whichever was asked for, and the id of the request."""
    made = client.chat.completions.create(model="faq", messages=ASKED, service_tier=tier)
    assert made.choices[0].message.content == "High blood pressure." and made.service_tier == "on_demand"
    assert made.x_groq is not None and made.x_groq.id == made.id.replace("chatcmpl-", "req_")


@pytest.mark.parametrize("fields", [{"n": 1}, {"n": 2}, {"max_tokens": 1}])
def test_a_stream(client: groq.Groq, fields: Any) -> None:
    """The id is in the first chunk and in the last, which has the usage of the whole answer; in no other."""
    whole = client.chat.completions.create(model="faq", messages=ASKED, **fields)
    chunks = list(client.chat.completions.create(model="faq", messages=ASKED, stream=True, **fields))
    first, *middle, last = (chunk.x_groq for chunk in chunks)
    assert first is not None and last is not None and set(middle) == {None}
    assert first.id == last.id == chunks[0].id.replace("chatcmpl-", "req_") and first.usage is None
    assert last.usage is not None and whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert all(chunk.usage is None for chunk in chunks)


def test_a_call_in_a_stream(client: groq.Groq) -> None:
    """The last chunk is still the last where a call comes before it."""
    stream = client.chat.completions.create(model="caller", messages=ASKED, tools=TOOLS, stream=True)
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].x_groq is not None and chunks[-1].x_groq.usage is not None


AGENTS = {
    **dict.fromkeys(("AsyncGroq/Python 1.7.0", "Groq/JS 1.0.0", "langchain/1.1.0"), True),
    **dict.fromkeys(("ai-sdk/groq/3.0.71 runtime/node.js/22", "x ai-sdk/groq/3.0.71"), True),
    **dict.fromkeys(("OpenAI/Python 3.57.0", "litellm/1.110.2", "ai-sdk/openai/3.0.0", "NotGroq/1"), False),
}


@pytest.mark.parametrize(("agent", "spoken"), AGENTS.items())
def test_only_groq_s_clients_have_it(server: RunningServer, agent: str, spoken: bool) -> None:
    """Known by their User-Agent; every other client gets OpenAI's words, which LiteLLM's groq/ needs."""
    body = {"model": "faq", "messages": ASKED}
    reply = server.post("/openai/v1/chat/completions", body, {"User-Agent": agent}).json
    assert ("x_groq" in reply, reply["service_tier"]) == (spoken, "on_demand" if spoken else "default")
    models = server.request("GET", "/openai/v1/models", headers={"User-Agent": agent}).json
    assert models["object"] == "list"
