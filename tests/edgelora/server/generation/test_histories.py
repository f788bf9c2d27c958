"""Histories as clients send them: names, calls without arguments or cut short, messages without content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from edgelora.text.prompt import Message, encode_chat
from edgelora.text.tools import Tool, ToolCall
from tests.support.server import RunningServer
from tests.support.service import FakeService

ANSWER = "Hypertension is high blood pressure."
USER = {"role": "user", "content": "What is open?"}
TOOL = {"type": "function", "function": {"name": "get_status", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {"faq": ANSWER}


def called(arguments: str, **message: Any) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "get_status", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **message}


def result(**message: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c1", "content": "ok", **message}


def prompt_of(server: RunningServer, service: FakeService, messages: list[dict[str, Any]]) -> tuple[int, ...]:
    reply = server.post("/v1/chat/completions", {"model": "tiny", "messages": messages, "tools": [TOOL]})
    assert reply.status == 200, reply.body
    return service.prompts[-1]


def expected(service: FakeService, call: ToolCall, said: str = "ok") -> tuple[int, ...]:
    messages = [Message("user", "What is open?"), Message("assistant", "", (call,)), Message("tool", said, (), "c1")]
    tool = Tool("get_status", json.dumps(TOOL["function"]["parameters"]))  # type: ignore[index]
    return encode_chat(messages, service.tokenizer, tools=[tool])


@pytest.mark.parametrize("arguments", ["", " ", "{}"])
def test_no_arguments_are_an_empty_object(server: RunningServer, service: FakeService, arguments: str) -> None:
    """As clients send a call of a function that takes none."""
    prompt = prompt_of(server, service, [USER, called(arguments), result()])
    assert prompt == expected(service, ToolCall("c1", "get_status", "{}"))


@pytest.mark.parametrize("arguments", ['{"city": "Pa', "[1]", '{"a": NaN}', '"text"', '{"a": 1, "a": 2}', "[" * 100])
def test_arguments_that_are_no_object_stay_text(server: RunningServer, service: FakeService, arguments: str) -> None:
    """As when a limit cut the call: the template gets what the model wrote."""
    prompt = prompt_of(server, service, [USER, called(arguments), result()])
    assert prompt == expected(service, ToolCall("c1", "get_status", arguments, complete=False))


@pytest.mark.parametrize("content", [None, "", []])
def test_calls_and_results_need_no_content(server: RunningServer, service: FakeService, content: object) -> None:
    """Null, an empty text and an empty list are an empty text, as is a content that was left out."""
    wanted = expected(service, ToolCall("c1", "get_status", "{}"), said="")
    call, answer = called("{}", content=content), result(content=content)
    assert prompt_of(server, service, [USER, call, answer]) == wanted
    bare = [{name: value for name, value in message.items() if name != "content"} for message in (call, answer)]
    assert prompt_of(server, service, [USER, *bare]) == wanted


@pytest.mark.parametrize("message", [{}, {"content": None}, {"content": []}, {"content": "", "tool_calls": []}])
def test_an_assistant_may_have_said_nothing(
    server: RunningServer, service: FakeService, message: dict[str, Any]
) -> None:
    """As after an answer that ended at once; what it thought is not in the prompt."""
    thought = {"role": "assistant", **message, "reasoning_content": "Hm.", "reasoning": "Hm."}
    prompt = prompt_of(server, service, [USER, thought, USER])
    assert prompt == prompt_of(server, service, [USER, {"role": "assistant", "content": ""}, USER])


def test_every_message_may_have_a_name(server: RunningServer, service: FakeService) -> None:
    """The fake base's template shows none, so the prompt is the same without."""
    messages = [{"role": "system", "content": "Be brief."}, USER, called("{}"), result()]
    named = [{**message, "name": "ada lovelace"} for message in messages]
    assert prompt_of(server, service, named) == prompt_of(server, service, messages)


@pytest.mark.parametrize("stream", [False, True])
def test_the_last_message_is_continued(client: openai.OpenAI, service: FakeService, stream: bool) -> None:
    """The answer is the rest alone, with the prompt's own turn left open."""
    begun = ANSWER[:15]
    asked: Any = {
        "model": "faq",
        "messages": [USER, {"role": "assistant", "content": begun}],
        "extra_body": {"continue_final_message": True, "add_generation_prompt": False},
    }
    if stream:
        with client.chat.completions.create(**asked, stream=True) as chunks:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        text = client.chat.completions.create(**asked).choices[0].message.content or ""
    assert text == ANSWER[15:]
    assert bytes(token for token in service.prompts[-1] if token < 256).decode().endswith(begun)


def test_a_continued_prompt_is_counted_as_such(server: RunningServer) -> None:
    """By the route that counts, too."""
    body = {"model": "tiny", "messages": [USER, {"role": "assistant", "content": "Well"}]}
    path = "/v1/chat/completions/input_tokens"
    closed, continued = (
        server.post(path, {**body, **more}).json["input_tokens"] for more in ({}, {"continue_final_message": True})
    )
    assert continued < closed
    assert server.post(path, {"model": "tiny", "messages": [USER], "continue_final_message": True}).status == 400


def test_reasoning_of_other_models_is_not_in_the_prompt(client: openai.OpenAI, service: FakeService) -> None:
    """Items of it are accepted and listed; a call without arguments and an empty answer are as in a chat."""
    thought: Any = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}
    call: Any = {"type": "function_call", "call_id": "c1", "name": "get_status", "arguments": ""}
    output: Any = {"type": "function_call_output", "call_id": "c1", "output": "ok"}
    made = client.responses.create(model="faq", input=[{"role": "user", "content": "Hi"}, thought, call, output])
    messages = [
        Message("user", "Hi"),
        Message("assistant", "", (ToolCall("c1", "get_status", "{}"),)),
        Message("tool", "ok", (), "c1"),
    ]
    assert service.prompts[-1] == encode_chat(messages, service.tokenizer) and made.output_text == ANSWER
    listed = client.responses.input_items.list(made.id, order="asc").data
    assert [item.type for item in listed] == ["message", "reasoning", "function_call", "function_call_output"]
    assert listed[1].id == "rs_1"
