"""Functions, formats and logprobs over the Responses API, through the real client, strict about every shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from edgelora.text.prompt import Message, encode_chat
from edgelora.text.tools import Tool, ToolCall
from tests.support.service import FakeService

ARGUMENTS = '{"town": "Ulm"}'
CALL = f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}'
ADAPTERS: Mapping[str, str | None] = {
    "calls": CALL,
    "twice": f"{CALL}; {CALL}",
    "talks": f"I will look.\n{CALL}",
    "words": "No call.",
}
SCHEMA = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
TOOLS: list[Any] = [
    {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": SCHEMA, "strict": True}
]


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return ADAPTERS


def test_a_call_is_an_item_of_its_own(client: openai.OpenAI) -> None:
    """Its name, its arguments and an id to answer it by; what was asked with is told."""
    made = client.responses.create(model="calls", input="Rain?", tools=TOOLS, tool_choice="auto")
    assert made.status == "completed" and len(made.output) == 1 and made.output_text == ""
    call = made.output[0]
    assert call.type == "function_call" and call.call_id.startswith("call_") and call.status == "completed"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"town": "Ulm"})
    assert made.tools[0].type == "function" and made.tools[0].name == "get_weather" and made.tool_choice == "auto"


def test_text_and_calls_keep_their_order(client: openai.OpenAI) -> None:
    """A message and calls stand beside each other; the second call only where more than one is wanted."""
    talks = client.responses.create(model="talks", input="Rain?", tools=TOOLS)
    assert [item.type for item in talks.output] == ["message", "function_call"]
    assert talks.output_text == "I will look.\n"
    for several, count in ((True, 2), (False, 1)):
        made = client.responses.create(model="twice", input="Rain?", tools=TOOLS, parallel_tool_calls=several)
        assert len(made.output) == count and made.parallel_tool_calls is several
    plain = client.responses.create(model="words", input="Rain?", tools=TOOLS)
    assert [item.type for item in plain.output] == ["message"] and plain.output_text == "No call."


def test_the_events_of_calls(client: openai.OpenAI) -> None:
    """Each item from its beginning to its end before the next; arguments add up; no number is left out."""
    with client.responses.create(model="talks", input="Rain?", tools=TOOLS, stream=True) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type.removeprefix("response.") for event in events))
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("function_call_arguments.delta", "function_call_arguments.done", "completed"),
    ]
    deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
    last = events[-1]
    assert last.type == "response.completed"
    call = last.response.output[1]
    assert call.type == "function_call" and "".join(event.delta for event in deltas) == call.arguments
    assert {(event.item_id, event.output_index) for event in deltas} == {(call.id, 1)}
    with client.responses.stream(model="twice", input="Rain?", tools=TOOLS) as helped:
        assert len(helped.get_final_response().output) == 2


def test_a_call_is_answered(client: openai.OpenAI, service: FakeService) -> None:
    """By the id of the response before, or with all items sent along: the prompt is the same, call and result in it."""
    first = client.responses.create(model="calls", input="Rain?", tools=TOOLS)
    call = first.output[0]
    assert call.type == "function_call"
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Wet."}
    client.responses.create(model="words", input=[result], previous_response_id=first.id, tools=TOOLS)
    items: list[Any] = [{"role": "user", "content": "Rain?"}, call.model_dump(), result]
    client.responses.create(model="words", input=items, tools=TOOLS)
    messages = [
        Message("user", "Rain?"),
        Message("assistant", "", calls=(ToolCall(call.call_id, "get_weather", call.arguments),)),
        Message("tool", "Wet.", call_id=call.call_id),
    ]
    tool = Tool("get_weather", json.dumps(SCHEMA), "The weather.")
    assert service.prompts[-2] == service.prompts[-1] == encode_chat(messages, service.tokenizer, tools=[tool])


def test_a_call_cut_short_is_not_taken_for_one(client: openai.OpenAI) -> None:
    """It is told as incomplete, and the conversation goes on without it."""
    choice: Any = {"type": "function", "name": "get_weather"}
    made = client.responses.create(
        model="calls", input="Rain?", tools=TOOLS, tool_choice=choice, max_output_tokens=len(CALL) - 5
    )
    call = made.output[0]
    assert made.status == "incomplete" and call.type == "function_call" and call.status == "incomplete"
    after = client.responses.create(model="words", input="Well?", previous_response_id=made.id)
    assert after.output_text == "No call."


def test_a_format_holds_the_answer(client: openai.OpenAI, service: FakeService) -> None:
    """A schema becomes the generation's constraint, and the response says which it was."""
    text_format: Any = {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}
    made = client.responses.create(model="tiny", input="Where?", text=text_format, max_output_tokens=4)
    assert service.samplings[-1].constraint is not None
    assert made.text is not None and made.text.format is not None and made.text.format.type == "json_schema"
    client.responses.create(model="tiny", input="Where?", text={"format": {"type": "json_object"}}, max_output_tokens=4)
    assert service.samplings[-1].constraint is not None
    client.responses.create(model="tiny", input="Where?", text={"format": {"type": "text"}}, max_output_tokens=4)
    assert service.samplings[-1].constraint is None


def test_logprobs_are_included_where_asked_for(client: openai.OpenAI) -> None:
    """Each token has its logprob and the likeliest tokens, whether streamed or not."""
    fields: dict[str, Any] = {"model": "words", "input": "Hi", "include": ["message.output_text.logprobs"]}
    made = client.responses.create(**fields, top_logprobs=2)
    part: Any = made.output[0].content[0]  # type: ignore[union-attr]
    assert "".join(token.token for token in part.logprobs) == "No call."
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs) and made.top_logprobs == 2
    with client.responses.create(**fields, stream=True) as stream:
        deltas = [event for event in stream if event.type == "response.output_text.delta"]
    assert [token.token for event in deltas for token in event.logprobs] == [token.token for token in part.logprobs]
    plain: Any = client.responses.create(model="words", input="Hi").output[0]
    assert plain.content[0].logprobs == []
