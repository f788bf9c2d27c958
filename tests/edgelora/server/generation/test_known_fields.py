"""The fields of other servers: each is honoured, refused by name, or ignored because it changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from msgspec import Struct

from edgelora.server.api.openai.chat import ChatBody
from edgelora.server.api.openai.completions import CompletionBody
from edgelora.server.api.responses.body import ResponsesBody
from edgelora.server.generation.known_fields import (
    CHAT,
    COMPLETION,
    EVERY_BODY,
    RESPONSES,
    Fields,
    Honoured,
    Ignored,
    Refused,
)
from tests.support.server import RunningServer
from tests.support.service import FakeService

DOCS = Path(__file__).resolve().parents[4] / "docs" / "http.md"
USER = {"role": "user", "content": "Hi"}
BODIES: dict[str, tuple[type[Struct], Fields, dict[str, Any]]] = {
    "/v1/chat/completions": (ChatBody, CHAT, {"model": "tiny", "messages": [USER]}),
    "/v1/completions": (CompletionBody, COMPLETION, {"model": "tiny", "prompt": "Hi"}),
    "/v1/responses": (ResponsesBody, RESPONSES, {"model": "tiny", "input": "Hi"}),
}


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {"faq": "One, two. Three.", "letters": None}


@pytest.mark.parametrize("path", BODIES)
def test_what_would_change_an_answer_is_refused_by_name(server: RunningServer, path: str) -> None:
    """With what to do; the values that change nothing are accepted, and null always is."""
    _, own, body = BODIES[path]
    fields = {**EVERY_BODY, **own}
    refused = {name: treatment for name, treatment in fields.items() if isinstance(treatment, Refused)}
    for name, treatment in refused.items():
        reply = server.post(path, {**body, name: {"asks": "for something"}})
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_parameter", name)
        assert repr(name) in reply.error["message"] and treatment.remedy in reply.error["message"]
    for accepted in range(max(len(treatment.accepted) for treatment in refused.values())):
        inert = {
            name: treatment.accepted[accepted]
            for name, treatment in refused.items()
            if accepted < len(treatment.accepted)
        }
        assert server.post(path, {**body, **inert}).status == 200
    assert server.post(path, {**body, **dict.fromkeys(fields)}).status == 200


@pytest.mark.parametrize("path", BODIES)
def test_what_is_honoured_has_a_type_and_what_is_ignored_has_none(server: RunningServer, path: str) -> None:
    """An ignored field may have any value."""
    kind, own, body = BODIES[path]
    fields = {**EVERY_BODY, **own}
    honoured = {name for name, treatment in fields.items() if isinstance(treatment, Honoured)}
    ignored = {name for name, treatment in fields.items() if isinstance(treatment, Ignored)}
    assert honoured <= set(kind.__struct_fields__)
    assert not set(kind.__struct_fields__) & (set(fields) - honoured)
    assert server.post(path, {**body, **dict.fromkeys(ignored, "any value")}).status == 200


def test_the_documentation_has_the_same_table() -> None:
    """Bodies, treatments, names and accepted values."""
    section = DOCS.read_text(encoding="utf-8").partition("### Fields of other servers")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (.*?) \| .* \|$", section, re.MULTILINE)
    documented = {
        (bodies, treatment, name, values)
        for bodies, treatment, fields in rows
        for name, values in re.findall(r"`(\w+)`(?: \(([^)]*)\))?", fields)
    }
    tables = {"all": EVERY_BODY, "chat": CHAT, "completions": COMPLETION, "responses": RESPONSES}
    assert documented == {
        (bodies, type(treatment).__name__.lower(), name, _values(treatment))
        for bodies, fields in tables.items()
        for name, treatment in fields.items()
    }


def _values(treatment: object) -> str:
    accepted = treatment.accepted if isinstance(treatment, Refused) else ()
    return " or ".join(f"`{json.dumps(value)}`" for value in accepted)


def test_other_names_of_fields_reach_the_runtime(server: RunningServer, service: FakeService) -> None:
    """Each sets what its other name sets, and both may be sent if they agree."""
    extra = {
        "n_predict": 7,
        "max_new_tokens": 7,
        "max_tokens": 7,
        "min_new_tokens": 2,
        "ignore_eos": True,
        "repetition_penalty": 1.5,
        "repeat_penalty": 1.5,
        "repetition_context_size": 20,
        "stop_token_ids": [1, 2],
        "include_stop_str_in_output": True,
    }
    for path in ("/v1/chat/completions", "/v1/completions"):
        assert server.post(path, {**BODIES[path][2], **extra}).status == 200
        used = service.samplings[-1]
        assert (used.max_tokens, used.min_tokens, used.ignore_eos) == (7, 2, True)
        assert (used.repeat_penalty, used.repeat_last_n) == (1.5, 20)
        assert (used.stop_token_ids, used.include_stop) == ((1, 2), True)


def test_minus_one_means_all(server: RunningServer, service: FakeService) -> None:
    """No limit of the answer, every token, the whole text."""
    for name in ("max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens"):
        body = {**BODIES["/v1/chat/completions"][2], name: -1, "top_k": -1, "repeat_last_n": -1}
        assert server.post("/v1/chat/completions", body).status == 200
        used = service.samplings[-1]
        assert (used.max_tokens, used.top_k) == (None, 0) and used.repeat_last_n >= 1 << 30
    reply = server.post("/v1/completions", {"model": "faq", "prompt": "Count: ", "max_tokens": -1}).json
    assert reply["choices"][0]["text"] == "One, two. Three." and reply["choices"][0]["finish_reason"] == "stop"


def test_where_an_answer_ends(client: openai.OpenAI) -> None:
    """At a stop token as at a stop text, streamed or not, with the reason that clients know."""
    asked: Any = {"model": "faq", "messages": [USER], "extra_body": {"stop_token_ids": [ord(",")]}}
    whole = client.chat.completions.create(**asked).choices[0]
    assert (whole.message.content, whole.finish_reason) == ("One", "stop")
    with client.chat.completions.create(**asked, stream=True) as stream:
        chunks = [chunk.choices[0] for chunk in stream]
    assert "".join(choice.delta.content or "" for choice in chunks) == "One" and chunks[-1].finish_reason == "stop"
    asked["extra_body"] |= {"include_stop_str_in_output": True}
    assert client.chat.completions.create(**asked).choices[0].message.content == "One,"
    endless: Any = {"ignore_eos": True}
    cut = client.completions.create(model="faq", prompt="Count: ", max_tokens=20, extra_body=endless).choices[0]
    assert len(cut.text.encode()) == 20 and cut.finish_reason == "length"


SCHEMA = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object", "schema": SCHEMA},
        {"type": "json_schema", "schema": SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}, "schema": SCHEMA},
    ],
)
def test_a_schema_beside_the_type_holds_the_answer(server: RunningServer, response_format: dict[str, Any]) -> None:
    """llama-server's and Together's forms mean what OpenAI's means; a stop does not cut the JSON short."""
    body = {"model": "faq", "messages": [USER], "response_format": response_format}
    for stop in ({}, {"stop": '"'}, {"stop_token_ids": [ord("{")], "stop": ["a", "1"]}):
        choice = server.post("/v1/chat/completions", {**body, **stop}).json["choices"][0]
        assert json.loads(choice["message"]["content"]) == {"a": 1} and choice["finish_reason"] == "stop"


def test_a_stop_does_not_cut_a_required_call(server: RunningServer) -> None:
    """Its arguments are complete; a stop still ends an answer of words."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
    body = {"model": "faq", "messages": [USER], "tools": tools, "stop": ["parameters", "two"]}
    forced = server.post("/v1/chat/completions", {**body, "tool_choice": "required", "parallel_tool_calls": False}).json
    (call,) = forced["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    free = server.post("/v1/chat/completions", body).json["choices"][0]
    assert (free["message"]["content"], free["finish_reason"]) == ("One, ", "stop")


@pytest.mark.parametrize("tier", ["auto", "default", "flex", "priority", "on_demand", "performance"])
def test_the_tier_of_service_is_told(server: RunningServer, tier: str) -> None:
    """There is one, whichever is asked for."""
    chat = server.post("/v1/chat/completions", {**BODIES["/v1/chat/completions"][2], "service_tier": tier}).json
    response = server.post("/v1/responses", {**BODIES["/v1/responses"][2], "service_tier": tier}).json
    assert chat["service_tier"] == response["service_tier"] == "default"
    assert server.post("/v1/responses", BODIES["/v1/responses"][2]).json["service_tier"] is None


def test_several_prompts_in_one_completion(client: openai.OpenAI, service: FakeService) -> None:
    """The choices of a prompt stand together, prompt after prompt, and every prompt is counted once."""
    asked: Any = {"model": "faq", "n": 2, "echo": True, "max_tokens": 3}
    for prompts in (["A: ", "Bee: "], [list(b"A: "), list(b"Bee: ")]):
        made = client.completions.create(**asked, prompt=prompts)
        assert [(choice.index, choice.text) for choice in made.choices] == [
            *((0, "A: One"), (1, "A: One"), (2, "Bee: One"), (3, "Bee: One")),
        ]  # fmt: skip
        assert made.usage is not None
        assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (
            *(sum(len(tokens) for tokens in {*service.prompts[-4:]}), 12),
        )  # fmt: skip


def test_several_prompts_in_a_stream(server: RunningServer) -> None:
    """Each chunk has the index of its choice, with its own prompt echoed."""
    body = {"model": "faq", "prompt": ["A: ", "Bee: "], "echo": True, "max_tokens": 3, "stream": True}
    reply = server.post("/v1/completions", body)
    texts = ["", ""]
    for line in reply.body.decode().splitlines():
        if line.startswith("data: {"):
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            texts[choice["index"]] += choice["text"]
    assert texts == ["A: One", "Bee: One"]
