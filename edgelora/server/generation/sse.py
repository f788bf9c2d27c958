"""A generation's events as the bytes of an SSE stream, in the shape of either API. Pure: no clock, no socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from edgelora.core.events import Failed, TextDelta, Usage
from edgelora.server.generation.choice_writer import ChoiceEnd, ChoiceWriter, Delta, Fields
from edgelora.server.generation.follow import ChoiceResult
from edgelora.server.http.errors import error_frame

KEEPALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ReplyShape:
    """What one API calls its answers."""

    id_prefix: str
    object: str
    chunk_object: str
    finish: Callable[[Fields], Fields] = lambda fields: fields
    """What is changed in every piece before it is written."""
    usage_apart: bool = True
    """Whether a stream's usage has a chunk of its own, or stands in the last one."""
    filler: bytes = b""
    """What is sent for an event that there is nothing to tell of yet."""


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """What every piece of one answer repeats."""

    id: str
    created: int
    """Unix seconds."""
    model: str
    """The id the client asked for."""
    fingerprint: str


def whole_answer(head: ChunkHead, shape: ReplyShape, *, choices: Sequence[ChoiceEnd], usage: Usage) -> bytes:
    """The JSON of an answer that is not streamed."""
    worded = [_choice(index, one.said[-1], one.reason) for index, one in enumerate(choices)]
    return msgspec.json.encode(shape.finish({**_fields(head, shape.object, worded), "usage": usage_fields(usage)}))


class SseWriter:
    """From the choices' events to frames. With `include_usage` every chunk has a null usage, and one more at the end
    has it."""

    def __init__(
        self, head: ChunkHead, shape: ReplyShape, wordings: Sequence[ChoiceWriter], *, include_usage: bool
    ) -> None:
        self._head = head
        self._shape = shape
        self._wordings = wordings
        self._include_usage = include_usage
        self._usages: list[Usage] = []
        """Of the choices that ended."""

    def opening(self) -> bytes:
        """What stands before the first text."""
        return b"".join(self._chunks(index, one.opening()) for index, one in enumerate(self._wordings))

    def event(self, heard: ChoiceResult | None) -> bytes:
        """One event's frames; None is silence that needs a sign of life."""
        if heard is None:
            return KEEPALIVE
        writer, event = self._wordings[heard.choice], heard.event
        if isinstance(event, TextDelta):
            return self._chunks(heard.choice, writer.more(event)) or self._shape.filler
        if isinstance(event, Failed):
            # Without this frame the clients take the text so far for the whole answer.
            return _frame(error_frame(event.error)) + DONE
        return self._end(heard.choice, writer.closing(event.reason), event.usage)

    def _end(self, choice: int, ending: ChoiceEnd, usage: Usage) -> bytes:
        *before, last = ending.said
        self._usages.append(usage)
        over = len(self._usages) == len(self._wordings)
        apart = self._shape.usage_apart
        own = total(self._usages) if over and not apart else None
        frames = self._chunks(choice, before) + self._chunk(_choice(choice, last, ending.reason), own)
        if not over:
            return frames
        return frames + (self._usage_chunk(total(self._usages)) if self._include_usage and apart else b"") + DONE

    def _chunks(self, choice: int, said: Sequence[Delta]) -> bytes:
        return b"".join(self._chunk(_choice(choice, one, None)) for one in said)

    def _chunk(self, choice: Fields, usage: Usage | None = None) -> bytes:
        fields = _fields(self._head, self._shape.chunk_object, [choice])
        if self._include_usage:
            fields["usage"] = None if usage is None else usage_fields(usage)
        return _frame(msgspec.json.encode(self._shape.finish(fields)))

    def _usage_chunk(self, usage: Usage) -> bytes:
        fields = _fields(self._head, self._shape.chunk_object, [])
        return _frame(msgspec.json.encode({**fields, "usage": usage_fields(usage)}))


def total(usages: Sequence[Usage]) -> Usage:
    """Of several answers to one prompt, which counts once, and as cached as the answer was that found least of it."""
    return Usage(
        prompt_tokens=usages[0].prompt_tokens,
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=min(usage.cached_tokens for usage in usages),
        drafted_tokens=sum(usage.drafted_tokens for usage in usages),
        accepted_tokens=sum(usage.accepted_tokens for usage in usages),
    )


def usage_fields(usage: Usage) -> Fields:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _fields(head: ChunkHead, name: str, choices: list[Fields]) -> Fields:
    return {
        "id": head.id,
        "object": name,
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        "choices": choices,
    }


def _choice(index: int, said: Delta, reason: str | None) -> Fields:
    return {"index": index, **said.fields, "logprobs": said.logprobs, "finish_reason": reason}


def _frame(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"
