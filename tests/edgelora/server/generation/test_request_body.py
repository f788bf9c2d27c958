"""Every field is honoured, refused by name, or not known at all; nothing known is dropped in silence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.errors import UsageError
from edgelora.core.sampling_params import SamplingParams
from edgelora.server.api.openai.chat import ChatBody
from edgelora.server.generation.known_fields import CHAT_INERT
from edgelora.server.generation.request_body import parse_body
from tests.support.server import RunningServer

USER = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [USER]}
COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": "Hi"}

MISSING, UNSUPPORTED = "missing_required_parameter", "unsupported_parameter"
PART = "messages[0].content[0]"
OBFUSCATION = "include_obfuscation"

CALL = "messages[0].tool_calls[0]"
SCHEMA = "unsupported_schema"
OTHER_WORDS = (SCHEMA, "bad_token")
TOOL = {"type": "function", "function": {"name": "f"}}
SAID = {"role": "assistant", "content": "Yes"}
CALLED = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def _called(arguments: str, **changes: str) -> dict[str, Any]:
    call = {**CALLED, "function": {"name": "f", "arguments": arguments}, **changes}
    return {"role": "assistant", "tool_calls": [call]}


def _tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


BAD_CHATS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", "invalid_type"),
    ({"model": 7}, "model", "invalid_type"),
    ({"model": ""}, "model", "invalid_value"),
    ({"model": "x" * 600}, "model", "invalid_value"),
    ({"model": "\ud800"}, "model", "invalid_value"),
    ({"messages": None}, "messages", "invalid_type"),
    ({"messages": "Hi"}, "messages", "invalid_type"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": ["Hi"]}, "messages[0]", "invalid_type"),
    ({"messages": [USER, {"content": "Hi"}]}, "messages[1].role", MISSING),
    ({"messages": [{"role": "user"}]}, "messages[0].content", MISSING),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", MISSING),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": "\udc00"}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]", "invalid_type"),
    ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, f"{PART}.type", MISSING),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, f"{PART}.text", MISSING),
    ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, f"{PART}.type", "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, f"{PART}.type", UNSUPPORTED),
    ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].tool_call_id", MISSING),
    ({"messages": [{"role": "function", "content": "Hi", "name": "f"}]}, "messages[0].role", UNSUPPORTED),
    ({"messages": [{"role": "function", "content": "Hi"}]}, "messages[0].role", UNSUPPORTED),
    ({"messages": [{**USER, "name": "x" * 65}]}, "messages[0].name", "invalid_value"),
    ({"messages": [{**USER, "name": 5}]}, "messages[0].name", "invalid_type"),
    ({"messages": [{**USER, "name": "\ud800"}]}, "messages[0].name", "invalid_value"),
    ({"messages": [{"role": "system", "content": None}]}, "messages[0].content", MISSING),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, f"{CALL}.id", MISSING),
    ({"messages": [{**USER, "tool_calls": [CALLED]}]}, "messages[0].tool_calls", "invalid_value"),
    ({"messages": [_called("\ud800")]}, f"{CALL}.function.arguments", "invalid_value"),
    ({"messages": [_called("{}", type="custom")]}, f"{CALL}.type", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"stream": 1}, "stream", "invalid_type"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
    ({"stream": True, "stream_options": {OBFUSCATION: True}}, f"stream_options.{OBFUSCATION}", UNSUPPORTED),
    ({"temperature": -0.1}, "temperature", "invalid_value"),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": 10**60}, "temperature", "invalid_value"),
    ({"top_p": 1.5}, "top_p", "invalid_value"),
    ({"min_p": -1}, "min_p", "invalid_value"),
    ({"top_k": -2}, "top_k", "invalid_value"),
    ({"top_k": 1.5}, "top_k", "invalid_type"),
    ({"repeat_penalty": 0}, "repeat_penalty", "invalid_value"),
    ({"seed": 2**63}, "seed", "invalid_value"),
    ({"seed": "1"}, "seed", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": 2**31}, "max_tokens", "invalid_value"),
    ({"max_tokens": True}, "max_tokens", "invalid_type"),
    ({"max_completion_tokens": -2}, "max_completion_tokens", "invalid_value"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
    ({"n_predict": 0}, "n_predict", "invalid_value"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
    ({"max_tokens": 5, "n_predict": 6}, "max_tokens", "invalid_value"),
    ({"max_new_tokens": 5, "n_predict": -1}, "n_predict", "invalid_value"),
    ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repeat_penalty", "invalid_value"),
    ({"repetition_penalty": 3}, "repetition_penalty", "invalid_value"),
    ({"repeat_last_n": -2}, "repeat_last_n", "invalid_value"),
    ({"min_tokens": -1}, "min_tokens", "invalid_value"),
    ({"min_tokens": 5, "min_new_tokens": 6}, "min_tokens", "invalid_value"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens", "invalid_value"),
    ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens", "invalid_value"),
    ({"ignore_eos": 1}, "ignore_eos", "invalid_type"),
    ({"stop_token_ids": [262]}, "stop_token_ids", "bad_token"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "invalid_value"),
    ({"stop_token_ids": 5}, "stop_token_ids", "invalid_type"),
    ({"continue_final_message": True}, "continue_final_message", "invalid_value"),
    ({"continue_final_message": True, "messages": [USER, _called("{}")]}, "continue_final_message", "invalid_value"),
    ({"add_generation_prompt": False}, "add_generation_prompt", "invalid_value"),
    (
        {"continue_final_message": True, "add_generation_prompt": True, "messages": [USER, SAID]},
        "add_generation_prompt",
        "invalid_value",
    ),
    ({"stop": ""}, "stop", "invalid_value"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": ["a", ""]}, "stop[1]", "invalid_value"),
    ({"stop": ["a"] * 17}, "stop", "invalid_value"),
    ({"stop": ["\ud83d"]}, "stop[0]", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 17}, "n", "invalid_value"),
    ({"n": True}, "n", "invalid_type"),
    ({"presence_penalty": 2.5}, "presence_penalty", "invalid_value"),
    ({"frequency_penalty": "1"}, "frequency_penalty", "invalid_type"),
    ({"logit_bias": {"5": 101}}, "logit_bias[...]", "invalid_value"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"262": 1}}, "logit_bias", "bad_token"),
    ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "invalid_value"),
    ({"logprobs": 1}, "logprobs", "invalid_type"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "tools": [TOOL]}, "logprobs", "invalid_value"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", MISSING),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "invalid_value"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
    ({"tools": [_tool({"type": "array"})]}, "tools[0].function.parameters", "invalid_value"),
    ({"tools": [_tool({"title": "\ud800"})]}, "tools[0].function.parameters.title", "invalid_value"),
    ({"tools": [_tool({"not": {}})], "tool_choice": "required"}, "tools", SCHEMA),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tool_choice": "any", "tools": [TOOL]}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "function"}, "tools": [TOOL]}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [TOOL]}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "custom"}, "tools": [TOOL]}, "tool_choice.type", "invalid_value"),
    ({"tool_choice": {"type": "allowed_tools"}, "tools": [TOOL]}, "tool_choice.allowed_tools", "invalid_value"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "invalid_type"),
    ({"functions": [{"name": "f"}]}, "functions", UNSUPPORTED),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", MISSING),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema", MISSING),
    ({"response_format": _format({"not": {}})}, "response_format", SCHEMA),
    ({"response_format": {"type": "json_object", "schema": {"not": {}}}}, "response_format", SCHEMA),
    (
        {"response_format": {**_format({"type": "null"}), "schema": {"type": "string"}}},
        "response_format.schema",
        "invalid_value",
    ),
    ({"service_tier": "turbo"}, "service_tier", "invalid_value"),
]  # fmt: skip

BAD_COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "prompt", "invalid_type"),
    ({"prompt": 5}, "prompt", "invalid_type"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": [[]]}, "prompt", "invalid_value"),
    ({"prompt": ["a", 1]}, "prompt", "invalid_value"),
    ({"prompt": ["a", [1]]}, "prompt", "invalid_value"),
    ({"prompt": [[1], []]}, "prompt", "invalid_value"),
    ({"prompt": ["a"] * 17}, "prompt", "invalid_value"),
    ({"prompt": ["a"] * 13, "n": 5}, "n", "invalid_value"),
    ({"max_tokens": 0, "echo": True}, "max_tokens", "invalid_value"),
    ({"prompt": "\ud800"}, "prompt", "invalid_value"),
    ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
    ({"prompt": [1, 2**31]}, "prompt[1]", "invalid_value"),
    ({"prompt": [[1, 2**40]]}, "prompt[0][1]", "invalid_value"),
    ({"prompt": [1.5]}, "prompt[0]", "invalid_type"),
    ({"prompt": [True]}, "prompt[0]", "invalid_type"),
    ({"echo": True, "logprobs": 0}, "echo", "invalid_value"),
    ({"logprobs": 21}, "logprobs", "invalid_value"),
    ({"logprobs": True}, "logprobs", "invalid_type"),
    ({"n": 17}, "n", "invalid_value"),
]


@pytest.mark.parametrize(("change", "param", "code"), BAD_CHATS)
def test_a_bad_chat_names_its_field(server: RunningServer, change: dict[str, Any], param: str, code: str) -> None:
    """Each wrong field is 400 with its own path in `param` and in the message."""
    reply = server.post("/v1/chat/completions", {**CHAT, **change})
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)
    assert repr(param) in reply.error["message"] or "content type" in reply.error["message"] or code in OTHER_WORDS
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(("change", "param", "code"), BAD_COMPLETIONS)
def test_a_bad_completion_names_its_field(server: RunningServer, change: dict[str, Any], param: str, code: str) -> None:
    """The older route is as strict."""
    reply = server.post("/v1/completions", {**COMPLETION, **change})
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_field_is_named(server: RunningServer, name: str) -> None:
    """Errors of missing fields name the field."""
    reply = server.post("/v1/chat/completions", {key: value for key, value in CHAT.items() if key != name})
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, name, MISSING)


def test_values_that_ask_for_nothing_are_accepted(server: RunningServer) -> None:
    """Clients that write out what stands for nothing are served as if they had left the fields away."""
    for extra in (
        {"n": 1, "logit_bias": {}, "tools": [], "logprobs": False, "presence_penalty": 0.0, "stream_options": None},
    ):
        assert server.post("/v1/chat/completions", {**CHAT, **extra}).status == 200


def test_unknown_fields_are_ignored(server: RunningServer) -> None:
    """Fields of other servers and hints about the caller change nothing."""
    extra = {"user": "ann", "x": {"y": [None]}, "big": 10**30}
    assert server.post("/v1/chat/completions", {**CHAT, **extra}).status == 200


def test_sampling_replaces_only_the_given_fields() -> None:
    """The base's defaults stand wherever the request is silent, also where it says zero."""
    defaults = SamplingParams(temperature=0.7, top_p=0.9)
    quiet = parse_body(dict(CHAT), ChatBody, CHAT_INERT)
    assert quiet.samplings(defaults, max_tokens=None) == (defaults,)
    zero = parse_body({**CHAT, "temperature": 0, "top_k": 0, "stop": []}, ChatBody, CHAT_INERT)
    assert zero.samplings(defaults, max_tokens=3) == (SamplingParams(temperature=0.0, top_p=0.9, max_tokens=3),)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from([*ChatBody.__struct_fields__, *CHAT_INERT])


@given(st.dictionaries(_FIELDS, _json, max_size=6))
@settings(deadline=None, max_examples=200)
def test_any_body_parses_or_is_refused_by_name(fields: dict[str, Any]) -> None:
    """No JSON value of any field raises anything but a UsageError that names a field."""
    try:
        body = parse_body({**CHAT, **fields}, ChatBody, CHAT_INERT)
        body.samplings(SamplingParams(), max_tokens=body.limit())
    except UsageError as error:
        assert error.param
