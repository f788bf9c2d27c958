"""Every field is honoured, refused by name, or not known at all; nothing known is dropped in silence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core import SamplingParams
from edgelora.errors import UsageError
from edgelora.server.chat import ChatBody
from edgelora.server.schemas import CHAT_INERT, COMPLETION_INERT, parse_body
from tests.support.server import RunningServer

USER = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [USER]}
COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": "Hi"}

MISSING, UNSUPPORTED = "missing_required_parameter", "unsupported_parameter"
PART = "messages[0].content[0]"
OBFUSCATION = "include_obfuscation"

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
    ({"messages": [{"role": "tool", "content": "Hi", "tool_call_id": "1"}]}, "messages[0].role", UNSUPPORTED),
    ({"messages": [{**USER, "name": "Ann"}]}, "messages[0].name", UNSUPPORTED),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls", UNSUPPORTED),
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
    ({"top_k": -1}, "top_k", "invalid_value"),
    ({"top_k": 1.5}, "top_k", "invalid_type"),
    ({"repeat_penalty": 0}, "repeat_penalty", "invalid_value"),
    ({"seed": 2**63}, "seed", "invalid_value"),
    ({"seed": "1"}, "seed", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": 2**31}, "max_tokens", "invalid_value"),
    ({"max_tokens": True}, "max_tokens", "invalid_type"),
    ({"max_completion_tokens": -1}, "max_completion_tokens", "invalid_value"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
    ({"stop": ""}, "stop", "invalid_value"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": ["a", ""]}, "stop[1]", "invalid_value"),
    ({"stop": ["a"] * 17}, "stop", "invalid_value"),
    ({"stop": ["\ud83d"]}, "stop[0]", "invalid_value"),
    ({"n": 2}, "n", UNSUPPORTED),
    ({"n": 0}, "n", UNSUPPORTED),
    ({"n": True}, "n", UNSUPPORTED),
    ({"presence_penalty": 0.5}, "presence_penalty", UNSUPPORTED),
    ({"frequency_penalty": -1}, "frequency_penalty", UNSUPPORTED),
    ({"logit_bias": {"5": 1}}, "logit_bias", UNSUPPORTED),
    ({"logprobs": True}, "logprobs", UNSUPPORTED),
    ({"top_logprobs": 3}, "top_logprobs", UNSUPPORTED),
    ({"tools": [{"type": "function"}]}, "tools", UNSUPPORTED),
    ({"tool_choice": "required"}, "tool_choice", UNSUPPORTED),
    ({"tool_choice": {"type": "function"}}, "tool_choice", UNSUPPORTED),
    ({"functions": [{"name": "f"}]}, "functions", UNSUPPORTED),
    ({"response_format": {"type": "json_object"}}, "response_format", UNSUPPORTED),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format", UNSUPPORTED),
    ({"modalities": ["text", "audio"]}, "modalities", UNSUPPORTED),
    ({"audio": {}}, "audio", UNSUPPORTED),
    ({"prediction": {"type": "content"}}, "prediction", UNSUPPORTED),
    ({"reasoning_effort": "low"}, "reasoning_effort", UNSUPPORTED),
    ({"service_tier": "flex"}, "service_tier", UNSUPPORTED),
    ({"store": True}, "store", UNSUPPORTED),
    ({"verbosity": "low"}, "verbosity", UNSUPPORTED),
    ({"web_search_options": {}}, "web_search_options", UNSUPPORTED),
]  # fmt: skip

BAD_COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "prompt", "invalid_type"),
    ({"prompt": 5}, "prompt", "invalid_type"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": [[]]}, "prompt", "invalid_value"),
    ({"prompt": ["a", "b"]}, "prompt", "invalid_value"),
    ({"prompt": [[1], [2]]}, "prompt", "invalid_value"),
    ({"prompt": ["a", 1]}, "prompt", "invalid_value"),
    ({"prompt": "\ud800"}, "prompt", "invalid_value"),
    ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
    ({"prompt": [1, 2**31]}, "prompt[1]", "invalid_value"),
    ({"prompt": [[1, 2**40]]}, "prompt[0][1]", "invalid_value"),
    ({"prompt": [1.5]}, "prompt[0]", "invalid_type"),
    ({"prompt": [True]}, "prompt[0]", "invalid_type"),
    ({"best_of": 2}, "best_of", UNSUPPORTED),
    ({"echo": True}, "echo", UNSUPPORTED),
    ({"suffix": "end"}, "suffix", UNSUPPORTED),
    ({"logprobs": 0}, "logprobs", UNSUPPORTED),
    ({"n": 3}, "n", UNSUPPORTED),
]


@pytest.mark.parametrize(("change", "param", "code"), BAD_CHATS)
def test_a_bad_chat_names_its_field(server: RunningServer, change: dict[str, Any], param: str, code: str) -> None:
    """Each wrong field is 400 with its own path in `param` and in the message."""
    reply = server.post("/v1/chat/completions", {**CHAT, **change})
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)
    assert repr(param) in reply.error["message"] or "content type" in reply.error["message"]
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(("change", "param", "code"), BAD_COMPLETIONS)
def test_a_bad_completion_names_its_field(server: RunningServer, change: dict[str, Any], param: str, code: str) -> None:
    """The older route is as strict."""
    reply = server.post("/v1/completions", {**COMPLETION, **change})
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_field_is_named(server: RunningServer, name: str) -> None:
    """What must be there is asked for by name."""
    reply = server.post("/v1/chat/completions", {key: value for key, value in CHAT.items() if key != name})
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, name, MISSING)


def test_values_that_ask_for_nothing_are_accepted(server: RunningServer) -> None:
    """Clients that write the defaults out, or null, are served as if they had left the fields away."""
    defaults = {name: accepted[0] for name, accepted in CHAT_INERT.items() if accepted}
    nulls = dict.fromkeys(
        [*CHAT_INERT, "temperature", "stop", "seed", "max_tokens", "stream", "stream_options", "top_k"]
    )
    for extra in (defaults, nulls, {"n": 1.0, "presence_penalty": 0.0, "stream_options": None}):
        assert server.post("/v1/chat/completions", {**CHAT, **extra}).status == 200
    old = {name: accepted[0] for name, accepted in COMPLETION_INERT.items() if accepted}
    assert server.post("/v1/completions", {**COMPLETION, **old}).status == 200


def test_unknown_fields_are_ignored(server: RunningServer) -> None:
    """Fields of other servers and hints about the caller change nothing."""
    extra = {"user": "ann", "metadata": {"a": "b"}, "n_predict": 5, "x": {"y": [None]}, "big": 10**30}
    assert server.post("/v1/chat/completions", {**CHAT, **extra}).status == 200


def test_sampling_replaces_only_what_was_said() -> None:
    """The base's defaults stand wherever the request is silent, also where it says zero."""
    defaults = SamplingParams(temperature=0.7, top_p=0.9)
    quiet = parse_body(dict(CHAT), ChatBody, CHAT_INERT)
    assert quiet.sampling(defaults, max_tokens=None) == defaults
    zero = parse_body({**CHAT, "temperature": 0, "top_k": 0, "stop": []}, ChatBody, CHAT_INERT)
    assert zero.sampling(defaults, max_tokens=3) == SamplingParams(temperature=0.0, top_p=0.9, max_tokens=3)


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
        body.sampling(SamplingParams(), max_tokens=body.limit)
    except UsageError as error:
        assert error.param
