"""The Responses API names the field at fault, and accepts values of unsupported fields that change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.server import RunningServer


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {}


WEATHER: dict[str, Any] = {"type": "function", "name": "get_weather", "description": "The weather.", "strict": True}


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}


def _call(arguments: str) -> dict[str, Any]:
    return {"type": "function_call", "name": "f", "call_id": "c", "arguments": arguments}


def _output(text: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": "c", "output": text}


NO_WORDS = {"type": "message", "role": "assistant", "content": []}


def _content(part: dict[str, str]) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": "medical-fak"}, "model_not_found", "model"),
        ({"model": None}, "invalid_type", "model"),
        ({"input": None}, "invalid_type", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": "\ud800"}, "invalid_value", "input"),
        ({"input": "x" * 20_000}, "context_length_exceeded", "input"),
        ({"input": [{"content": "Hi"}]}, "missing_required_parameter", "input[0].role"),
        ({"input": [{"role": "king", "content": "Hi"}]}, "invalid_value", "input[0].role"),
        ({"input": [{"role": "user"}]}, "missing_required_parameter", "input[0].content"),
        ({"input": [{"role": "user", "content": []}]}, "invalid_value", "input[0].content"),
        (_content({"type": "input_image"}), "unsupported_parameter", "input[0].content[0].type"),
        (_content({"type": "?"}), "invalid_value", "input[0].content[0].type"),
        (_content({"type": "input_text"}), "missing_required_parameter", "input[0].content[0].text"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_parameter", "input[0].type"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"top_k": -2}, "invalid_value", "top_k"),
        ({"metadata": {"a": 1}}, "invalid_type", "metadata[...]"),
        ({"lora": "medical-faq"}, "unsupported_parameter", "lora"),
        ({"adapter_id": "medical-fak"}, "model_not_found", "adapter_id"),
        ({"adapter": 5}, "invalid_value", "adapter"),
        ({"n_predict": 5}, "unsupported_parameter", "n_predict"),
        ({"service_tier": "turbo"}, "invalid_value", "service_tier"),
        ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
        ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
        ({"include": ["file_search_call.results"]}, "invalid_value", "include[0]"),
        ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
        ({"tools": [{"type": "web_search"}]}, "invalid_value", "tools[0].type"),
        ({"tools": [{**WEATHER, "parameters": {"type": "string"}}]}, "invalid_value", "tools[0].parameters"),
        (_format({"not": {"type": "string"}}), "unsupported_schema", "text.format"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "invalid_value", "tool_choice"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "missing_required_parameter", "text.format.schema"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "missing_required_parameter", "input[0].arguments"),
        ({"input": [{"type": "function_call_output"}]}, "missing_required_parameter", "input[0].output"),
        ({"input": [NO_WORDS, {**_call("{}"), "name": "a b"}]}, "invalid_value", "input[1].name"),
        ({"input": [{"type": "reasoning", "id": "r", "summary": []}]}, "invalid_value", "input"),
        ({"stream_options": {}}, "invalid_value", "stream_options"),
        ({"max_tokens": 5}, "unsupported_parameter", "max_tokens"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
        ({"guided_json": {}}, "unsupported_parameter", "guided_json"),
        ({"stop": [""]}, "invalid_value", "stop[0]"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "unsupported_parameter",
            "stream_options.include_obfuscation",
        ),
        ({"text": {"verbosity": "loud"}}, "unsupported_parameter", "text.verbosity"),
        ({"background": True, "stream": True}, "invalid_value", "background"),
        ({"background": True, "store": False}, "invalid_value", "background"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_its_field(
    server: RunningServer, change: dict[str, Any], code: str, param: str
) -> None:
    """Never silently ignored, and named in this API's words."""
    reply = server.post("/v1/responses", {"model": "tiny", "input": "Hi", **change})
    assert reply.status in (400, 404) and (reply.error["code"], reply.error["param"]) == (code, param)
    assert "messages[" not in reply.error["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"reasoning": None},
        {"tools": []},
        {"tool_choice": "auto"},
        {"include": []},
        {"text": {"format": {"type": "text"}}},
        {"prompt_cache_key": "x", "prompt_cache_retention": "24h", "safety_identifier": "y"},
        {"reasoning": {"effort": "high", "summary": "auto"}},
        {"text": {"verbosity": "high"}},
        {"input": [{"role": "user", "content": "Hi"}, _call(""), _call('{"town": "U'), _output(""), NO_WORDS]},
        {"truncation": "disabled"},
    ],
)
def test_what_asks_for_nothing_is_let_through(server: RunningServer, change: dict[str, Any]) -> None:
    """Clients send defaults, and hints that only concern a hosted service."""
    assert server.post("/v1/responses", {"model": "tiny", "input": "Hi", **change}).status == 200
