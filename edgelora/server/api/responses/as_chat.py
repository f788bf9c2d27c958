"""A response as the chat that it is: its conversation, limits and formats in a chat body's words.

So that one place decides what a generation can be asked for. What the chat route refuses is told in this API's words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgelora.core.errors import EdgeloraError
from edgelora.server.api.responses.body import LOGPROBS, FunctionTool, ResponsesBody, TextFormat
from edgelora.server.api.responses.types import FunctionOutputItem, Item, MessageItem
from edgelora.server.generation.tool_request import Choice
from edgelora.server.http.validation import missing

_PASSED = (
    *("model", "adapters", "temperature", "top_p", "parallel_tool_calls", "user"),
    *("top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop"),
)
"""Fields that both APIs have; the second line's are a chat's, and work here too."""

Fields = dict[str, Any]

_WORDS = (
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format.json_schema.schema", "text.format.schema"),
    ("response_format.json_schema", "text.format.schema"),
    ("response_format", "text.format"),
    ("logprobs", "include"),
)
"""A field of the chat body, and this API's word for it."""


def chat_body(raw: dict[str, object], body: ResponsesBody, conversation: Iterable[Item]) -> dict[str, object]:
    """`conversation`: all that was said before, and the input."""
    said = [{"role": "system", "content": body.instructions}] if body.instructions else []
    chat: dict[str, Any] = {name: raw[name] for name in _PASSED if name in raw}
    chat["messages"] = [*said, *messages(conversation)]
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
    """As a chat has them: calls stand in the assistant's message. A call that was cut short was never made."""
    found: list[Fields] = []
    for item in conversation:
        if isinstance(item, MessageItem):
            found.append({"role": item.role, "content": item.text})
        elif isinstance(item, FunctionOutputItem):
            found.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
        elif item.status != "incomplete":
            if not found or found[-1]["role"] != "assistant":
                found.append({"role": "assistant", "content": ""})
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            found[-1].setdefault("tool_calls", []).append(call)
    return found


def in_our_words(error: EdgeloraError) -> EdgeloraError:
    """The same error, its `param` a field of this API."""
    param = error.param or ""
    if param.startswith("messages"):
        # An index into the messages would be of the whole conversation, and not of this request's input.
        error.param = "input"
    elif param.startswith("tools"):
        error.param = param.replace(".function.", ".")
    else:
        error.param = dict(_WORDS).get(param, error.param)
    return error


def _tool(tool: FunctionTool) -> Fields:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _choice(choice: Choice | dict[str, Any]) -> object:
    """This API names functions where a chat has them within `function`."""
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        tools = choice.get("tools")
        named = [_choice(tool) for tool in tools] if isinstance(tools, list) else tools
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": named}}
    return {"type": choice.get("type"), "function": {"name": choice.get("name")}}


def _format(wanted: TextFormat) -> Fields:
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    if wanted.schema is None:
        raise missing("text.format.schema")
    return {"type": "json_schema", "json_schema": {"schema": wanted.schema}}
