"""Writing the events of a generation as server-sent events, or as one JSON reply. Pure: no clock, no socket."""

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
    """The shape of one API's replies around their choices."""

    id_prefix: str
    object: str
    chunk_object: str
    finish: Callable[[Fields], Fields] = lambda fields: fields
    """Changes the fields of every chunk and whole reply before they are encoded."""
    first: Callable[[Fields], Fields] = lambda fields: fields
    """Changes the fields of a stream's first chunk."""
    last: Callable[[Fields, Usage], Fields] = lambda fields, _usage: fields
    """Changes the fields of a stream's last chunk that has a choice, with the usage of the whole answer."""
    service_tier: str | None = None
    """What the API calls the tier of service that it gives everybody; None: it names none."""
    usage_apart: bool = True
    """True if a stream's usage has a chunk of its own; False if it is in the last one."""
    filler: bytes = b""
    """Bytes sent for an event that has no chunk yet."""


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """The fields that all chunks of one answer have in common."""

    id: str
    created: int
    """Time in Unix seconds."""
    model: str
    """The model id as the client wrote it."""
    fingerprint: str


def whole_answer(head: ChunkHead, shape: ReplyShape, *, choices: Sequence[ChoiceEnd], usage: Usage) -> bytes:
    """Return the JSON of an answer that is not streamed."""
    written = [_choice(index, choice.deltas[-1], choice.reason) for index, choice in enumerate(choices)]
    fields = {**_fields(head, shape, shape.object, written), "usage": usage_fields(usage)}
    return msgspec.json.encode(shape.finish(fields))


class SseWriter:
    """Turns the events of an answer's choices into the frames of its stream."""

    def __init__(
        self,
        head: ChunkHead,
        shape: ReplyShape,
        writers: Sequence[ChoiceWriter],
        *,
        include_usage: bool,
        prompts: int = 1,
    ) -> None:
        """`include_usage`: send the usage at the end of the stream, and a null usage in all other chunks. `prompts`:
        how many prompts the choices answer, as many choices each, in order."""
        self._head = head
        self._shape = shape
        self._writers = writers
        self._include_usage = include_usage
        self._begun = False
        """True once there is a chunk."""
        self._prompts = prompts
        self._usages: dict[int, Usage] = {}
        """The usage of each choice that has ended."""

    def opening(self) -> bytes:
        """Return the frames before the first text."""
        return b"".join(self._chunks(index, writer.opening()) for index, writer in enumerate(self._writers))

    def event(self, result: ChoiceResult | None) -> bytes:
        """Return the frames of an event. None stands for silence, for which a comment keeps the connection alive."""
        if result is None:
            return KEEPALIVE
        writer, event = self._writers[result.choice], result.event
        if isinstance(event, TextDelta):
            return self._chunks(result.choice, writer.more(event)) or self._shape.filler
        if isinstance(event, Failed):
            # Without this frame clients would take the text so far for the whole answer.
            return _frame(error_frame(event.error)) + DONE
        return self._end(result.choice, writer.closing(event.reason), event.usage)

    def _end(self, choice: int, ending: ChoiceEnd, usage: Usage) -> bytes:
        *before, last = ending.deltas
        self._usages[choice] = usage
        over = len(self._usages) == len(self._writers)
        if not over:
            return self._chunks(choice, before) + self._chunk(_choice(choice, last, ending.reason))
        usages = [self._usages[index] for index in range(len(self._writers))]
        spent, apart = total(usages, prompts=self._prompts), self._shape.usage_apart and self._include_usage
        frames = self._chunks(choice, before) + self._chunk(_choice(choice, last, ending.reason), spent)
        return frames + (self._usage_chunk(spent) if apart else b"") + DONE

    def _chunks(self, choice: int, deltas: Sequence[Delta]) -> bytes:
        return b"".join(self._chunk(_choice(choice, delta, None)) for delta in deltas)

    def _chunk(self, choice: Fields, spent: Usage | None = None) -> bytes:
        """`spent`: in the last chunk, the usage of the whole answer."""
        fields = _fields(self._head, self._shape, self._shape.chunk_object, [choice])
        if self._include_usage:
            fields["usage"] = None if spent is None or self._shape.usage_apart else usage_fields(spent)
        fields = self._shape.finish(fields)
        if not self._begun:
            fields, self._begun = self._shape.first(fields), True
        return _frame(msgspec.json.encode(fields if spent is None else self._shape.last(fields, spent)))

    def _usage_chunk(self, usage: Usage) -> bytes:
        fields = _fields(self._head, self._shape, self._shape.chunk_object, [])
        return _frame(msgspec.json.encode({**fields, "usage": usage_fields(usage)}))


def total(usages: Sequence[Usage], *, prompts: int = 1) -> Usage:
    """Return the usage of all choices together, given in order.

    Each of the `prompts` counts once, with the fewest cached tokens of any of its choices.
    """
    each = len(usages) // prompts
    same_prompt = [usages[first : first + each] for first in range(0, len(usages), each)]
    return Usage(
        prompt_tokens=sum(choices[0].prompt_tokens for choices in same_prompt),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(min(usage.cached_tokens for usage in choices) for choices in same_prompt),
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


def _fields(head: ChunkHead, shape: ReplyShape, name: str, choices: list[Fields]) -> Fields:
    tier: Fields = {} if shape.service_tier is None else {"service_tier": shape.service_tier}
    return {
        "id": head.id,
        "object": name,
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        **tier,
        "choices": choices,
    }


def _choice(index: int, delta: Delta, reason: str | None) -> Fields:
    return {"index": index, **delta.fields, "logprobs": delta.logprobs, "finish_reason": reason}


def _frame(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"
