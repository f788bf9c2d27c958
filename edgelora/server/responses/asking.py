"""A response as the chat that it is: its conversation, limits and formats in a chat body's words.

So that one place decides what a generation can be asked for. What the chat route refuses is told in this API's words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgelora.errors import EdgeloraError
from edgelora.server.responses.body import ResponsesBody
from edgelora.server.responses.types import Item

_PASSED = ("model", "adapters", "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "seed", "stop", "user")
"""Fields that both APIs have, or that are edgelora's own in both."""

_WORDS = (
    ("max_completion_tokens", "max_output_tokens"),
    ("messages", "input"),
)
"""A field of the chat body, and this API's word for it."""


def chat_body(raw: dict[str, object], body: ResponsesBody, conversation: Iterable[Item]) -> dict[str, object]:
    """`conversation`: all that was said before, and the input."""
    said = [{"role": "system", "content": body.instructions}] if body.instructions else []
    chat: dict[str, Any] = {name: raw[name] for name in _PASSED if name in raw}
    chat["messages"] = [*said, *(_message(item) for item in conversation)]
    chat["max_completion_tokens"] = body.max_output_tokens
    return chat


def in_our_words(error: EdgeloraError) -> EdgeloraError:
    """The same error, its `param` a field of this API."""
    for theirs, ours in _WORDS:
        if error.param is not None and error.param.startswith(theirs):
            # An index into the messages would be of the whole conversation, and not of this request's input.
            error.param = ours
    return error


def _message(item: Item) -> dict[str, object]:
    return {"role": item.role, "content": item.text}
