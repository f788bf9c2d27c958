"""Translating a response's body into a chat body, and the chat's errors back.

Thus one place checks what a generation may ask for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgelora.core.errors import EdgeloraError
from edgelora.server.api.responses.body import LOGPROBS, FunctionTool, ResponsesBody, TextFormat
from edgelora.server.api.responses.types import FunctionCallItem, FunctionOutputItem, Item, MessageItem
from edgelora.server.generation.request_body import SamplingFields
from edgelora.server.generation.tool_request import Choice
from edgelora.server.http.validation import invalid, missing

_PASSED = (*SamplingFields.__struct_fields__, "parallel_tool_calls", "user")
"""Fields that are passed on as they are."""

Fields = dict[str, Any]

_FIELD_NAMES = (
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format.json_schema.schema", "text.format.schema"),
    ("response_format.json_schema", "text.format.schema"),
    ("response_format", "text.format"),
    ("logprobs", "include"),
)
"""Fields of the chat body, each with the field of this API that it was made from."""


def chat_body(raw: dict[str, object], body: ResponsesBody, conversation: Iterable[Item]) -> dict[str, object]:
    """Return the chat body of a response. `conversation`: the items before, and the input."""
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    chat: dict[str, Any] = {name: raw[name] for name in _PASSED if name in raw}
    chat["messages"] = [*instructions, *messages(conversation)]
    if not chat["messages"]:
        raise invalid("input", "has no message and no call, so there is nothing to answer")
    chat["max_completion_tokens"] = body.max_output_tokens
    if LOGPROBS in (body.include or ()):
        chat |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if body.tools:
        chat["tools"] = [_tool(tool) for tool in body.tools]
    if body.tool_choice is not None:
        chat["tool_choice"] = _choice(body.tool_choice)
    if body.text is not None and body.text.format is not None:
        chat["response_format"] = _format(body.text.format)
    return chat


def messages(conversation: Iterable[Item]) -> list[Fields]:
    """Return the items as chat messages, with calls in the assistant's message.

    Cut-off calls are left out, and so is what other models thought.
    """
    chat: list[Fields] = []
    for item in conversation:
        if isinstance(item, MessageItem):
            chat.append({"role": item.role, "content": item.text})
        elif isinstance(item, FunctionOutputItem):
            chat.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
        elif isinstance(item, FunctionCallItem) and item.status != "incomplete":
            if not chat or chat[-1]["role"] != "assistant":
                chat.append({"role": "assistant", "content": ""})
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            chat[-1].setdefault("tool_calls", []).append(call)
    return chat


def with_own_field(error: EdgeloraError) -> EdgeloraError:
    """Return the chat's error with the field of this API as its `param`, and in its text."""
    if error.param is not None:
        own = _own_field(error.param)
        error.what = error.what.replace(repr(error.param), repr(own))
        error.args = (f"{error.what} {error.remedy}".strip(),)
        error.param = own
    return error


def _own_field(param: str) -> str:
    if param.startswith("messages"):
        # The index of a message counts the whole conversation, not this request's input.
        return "input"
    return param.replace(".function.", ".") if param.startswith("tools") else dict(_FIELD_NAMES).get(param, param)


def _tool(tool: FunctionTool) -> Fields:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _choice(choice: Choice | dict[str, Any]) -> object:
    """Return a chat's tool choice, which has the name within `function`."""
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        tools = choice.get("tools")
        named = [_choice(tool) for tool in tools] if isinstance(tools, list) else tools
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": named}}
    return {"type": choice.get("type"), "function": {"name": choice.get("name")}}


def _format(text_format: TextFormat) -> Fields:
    if text_format.type != "json_schema":
        return {"type": text_format.type}
    if text_format.schema is None:
        raise missing("text.format.schema")
    return {"type": "json_schema", "json_schema": {"schema": text_format.schema}}
