"""A generation's events as the bytes of an SSE stream, in the shape of either API. Pure: no clock, no socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from edgelora.core import Event, Failed, FinishReason, TextDelta, Usage
from edgelora.server.errors import error_frame

KEEPALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Shape:
    """How one API words an answer: the names, and what stands in the one choice."""

    id_prefix: str
    object: str
    chunk_object: str
    whole: Callable[[str], Fields]
    """The choice of a complete answer: from its text."""
    opening: Callable[[], Fields] | None
    """The choice of a first chunk without text, where the API has one."""
    delta: Callable[[str], Fields]
    closing: Callable[[], Fields]
    """The choice of the chunk that carries the finish reason."""


@dataclass(frozen=True, slots=True)
class Head:
    """What every piece of one answer repeats."""

    id: str
    created: int
    """Unix seconds."""
    model: str
    """The id the client asked for."""
    fingerprint: str


def whole_answer(head: Head, shape: Shape, *, text: str, reason: FinishReason, usage: Usage) -> bytes:
    """The JSON of an answer that is not streamed."""
    fields = _fields(head, shape.object, [_choice(shape.whole(text), reason)])
    return msgspec.json.encode({**fields, "usage": usage_fields(usage)})


class SseWriter:
    """From events to frames. With `include_usage` every chunk has a null usage, and one more at the end has it."""

    def __init__(self, head: Head, shape: Shape, *, include_usage: bool) -> None:
        self._head = head
        self._shape = shape
        self._include_usage = include_usage

    def opening(self) -> bytes:
        """What stands before the first text."""
        return self._chunk(self._shape.opening(), None) if self._shape.opening is not None else b""

    def event(self, event: Event | None) -> bytes:
        """One event's frames; None is silence that needs a sign of life."""
        if event is None:
            return KEEPALIVE
        if isinstance(event, TextDelta):
            return self._chunk(self._shape.delta(event.text), None)
        if isinstance(event, Failed):
            # Without this frame the clients take the text so far for the whole answer.
            return _frame(error_frame(event.error)) + DONE
        last = self._chunk(self._shape.closing(), event.reason)
        return last + (self._usage_chunk(event.usage) if self._include_usage else b"") + DONE

    def _chunk(self, choice: Fields, reason: FinishReason | None) -> bytes:
        fields = _fields(self._head, self._shape.chunk_object, [_choice(choice, reason)])
        return _frame(msgspec.json.encode({**fields, "usage": None} if self._include_usage else fields))

    def _usage_chunk(self, usage: Usage) -> bytes:
        fields = _fields(self._head, self._shape.chunk_object, [])
        return _frame(msgspec.json.encode({**fields, "usage": usage_fields(usage)}))


def usage_fields(usage: Usage) -> Fields:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _fields(head: Head, name: str, choices: list[Fields]) -> Fields:
    return {
        "id": head.id,
        "object": name,
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        "choices": choices,
    }


def _choice(fields: Fields, reason: FinishReason | None) -> Fields:
    return {"index": 0, **fields, "logprobs": None, "finish_reason": None if reason is None else str(reason)}


def _frame(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"
