"""POST /v1/chat/completions: the body, its messages, and how the answer is worded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from edgelora.errors import UsageError
from edgelora.prompt import Message
from edgelora.server.acting import acting
from edgelora.server.generate import Job
from edgelora.server.runtime import Runtime
from edgelora.server.schemas import (
    CHAT_INERT,
    Generation,
    Inert,
    Positive,
    check_text,
    client_of,
    invalid,
    missing,
    parse_body,
    refuse_unsupported,
    unsupported,
)
from edgelora.server.sse import Fields, Shape

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""The roles a message may have, and the template's word for each. `developer` is the newer name of `system`."""

_TOOL_ROLES = frozenset({"tool", "function"})
_PART_TYPES = frozenset({"image_url", "input_audio", "file", "refusal"})
_MESSAGE_INERT: Inert = {"name": (), "tool_calls": ([],), "function_call": (), "audio": (), "refusal": ()}


class Part(Struct, frozen=True):
    """One piece of a message's content."""

    type: str
    text: str | None = None


class ChatMessage(Struct, frozen=True):
    role: str
    content: str | list[Part] | None = None


class ChatBody(Generation, frozen=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None

    @property
    def limit(self) -> int | None:
        """How many tokens the answer may have. Raises UsageError where the two names of the field disagree."""
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise invalid("max_tokens", "disagrees with 'max_completion_tokens'")
        return old if new is None else new


def start_chat(runtime: Runtime, raw: dict[str, object]) -> Job:
    """Parse a body and begin its answer. Raises UsageError, NotFound and what the runtime raises."""
    body = parse_body(raw, ChatBody, CHAT_INERT)
    messages = chat_messages(body.messages, raw)
    limit = body.limit
    adapters = acting(runtime, body)
    sampling = body.sampling(runtime.default_sampling(), max_tokens=limit)
    stream = runtime.chat(messages, adapters=adapters, sampling=sampling, client=client_of(raw))
    return Job(body, adapters, stream)


def chat_messages(messages: Sequence[ChatMessage], raw: dict[str, Any]) -> list[Message]:
    """The conversation for the template. `raw`: the body they were parsed from. Raises UsageError naming the field."""
    return [
        _message(message, given, f"messages[{index}].")
        for index, (message, given) in enumerate(zip(messages, raw["messages"], strict=True))
    ]


def _message(message: ChatMessage, given: Mapping[str, object], at: str) -> Message:
    refuse_unsupported(given, _MESSAGE_INERT, at=at)
    if message.role in _TOOL_ROLES:
        raise unsupported(f"{at}role", tuple(ROLES))
    if message.role not in ROLES:
        raise invalid(f"{at}role", f"must be one of {', '.join(ROLES)}")
    content = message.content
    if content is None:
        raise missing(f"{at}content")
    text = content if isinstance(content, str) else _joined(content, f"{at}content")
    check_text(text, f"{at}content")
    return Message(ROLES[message.role], text)


def _joined(parts: list[Part], at: str) -> str:
    """The texts of the parts, each on lines of its own."""
    if not parts:
        raise invalid(at, "must hold at least one part")
    return "\n".join(_part_text(part, f"{at}[{index}]") for index, part in enumerate(parts))


def _part_text(part: Part, at: str) -> str:
    if part.type in _PART_TYPES:
        raise UsageError(
            "unsupported_parameter",
            f"The content type {part.type!r} is not supported.",
            "Send text.",
            param=f"{at}.type",
        )
    if part.type != "text":
        raise invalid(f"{at}.type", "must be 'text'")
    if part.text is None:
        raise missing(f"{at}.text")
    return part.text


def _whole(text: str) -> Fields:
    return {"message": {"role": "assistant", "content": text, "refusal": None}}


def _delta(text: str) -> Fields:
    return {"delta": {"content": text}}


CHAT = Shape(
    id_prefix="chatcmpl-",
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    whole=_whole,
    opening=lambda: {"delta": {"role": "assistant", "content": ""}},
    delta=_delta,
    closing=lambda: {"delta": {}},
)
