"""Writing the choices of chat completions: text, tool calls and logprobs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from edgelora.core.events import FinishReason, TextDelta
from edgelora.server.generation.choice_writer import ChoiceEnd, Delta, Fields, chat_logprobs, scored, text_of
from edgelora.text.tool_parser import CallArguments, CallBegun, Part, TextPart, ToolParser

CALLED = "tool_calls"
"""The finish reason of an answer that made a call."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The fields of a request that decide how its choices are written."""

    logprobs: bool = False
    make_parser: Callable[[], ToolParser] | None = None
    """Makes the parser of the calls in an answer; None if the answer may make none."""
    several: bool = True
    """True to write every call; False to write only the first."""


@dataclass(slots=True)
class AnswerParts:
    """Splits an answer into text and tool calls, each part with the index of the latest call."""

    chat_format: ChatFormat
    parser: ToolParser | None = field(init=False)
    calls: int = field(default=0, init=False)
    """Number of calls so far."""

    def __post_init__(self) -> None:
        self.parser = None if self.chat_format.make_parser is None else self.chat_format.make_parser()

    def feed(self, text: str) -> list[tuple[int, Part]]:
        return self._kept([TextPart(text)] if self.parser is None else self.parser.feed(text))

    def finish(self, reason: FinishReason) -> list[tuple[int, Part]]:
        return [] if self.parser is None else self._kept(self.parser.finish(cut=reason is FinishReason.LENGTH))

    def _kept(self, parts: Iterable[Part]) -> list[tuple[int, Part]]:
        """Return the parts without those after the first call, if only one is to be written."""
        kept: list[tuple[int, Part]] = []
        for part in parts:
            self.calls += isinstance(part, CallBegun)
            if self.chat_format.several or self.calls == 0 or (self.calls == 1 and not isinstance(part, TextPart)):
                kept.append((self.calls - 1, part))
        return kept


@dataclass(slots=True)
class ChatWriter:
    chat_format: ChatFormat
    _parts: AnswerParts = field(init=False)

    def __post_init__(self) -> None:
        self._parts = AnswerParts(self.chat_format)

    def opening(self) -> Sequence[Delta]:
        return (_delta(role="assistant", content=""),)

    def more(self, delta: TextDelta) -> Sequence[Delta]:
        if self._parts.parser is not None:
            return [_part(index, part) for index, part in self._parts.feed(delta.text)]
        tokens = chat_logprobs(delta.tokens) if self.chat_format.logprobs else None
        return (Delta({"delta": {"content": delta.text}}, tokens),)

    def closing(self, reason: FinishReason) -> ChoiceEnd:
        rest = [_part(index, part) for index, part in self._parts.finish(reason)]
        return ChoiceEnd((*rest, _delta()), self._reason(reason))

    def whole_choice(self, deltas: Sequence[TextDelta], reason: FinishReason) -> ChoiceEnd:
        if self._parts.parser is None:
            tokens = chat_logprobs(scored(deltas)) if self.chat_format.logprobs else None
            return ChoiceEnd((Delta(_message(text_of(deltas)), tokens),), str(reason))
        indexed = [part for delta in deltas for part in self._parts.feed(delta.text)]
        parts = [part for _, part in (*indexed, *self._parts.finish(reason))]
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        calls = _whole_calls(parts)
        return ChoiceEnd((Delta(_message(text or (None if calls else ""), calls)),), self._reason(reason))

    def _reason(self, reason: FinishReason) -> str:
        return CALLED if self._parts.calls and reason is FinishReason.STOP else str(reason)


def _part(index: int, part: Part) -> Delta:
    if isinstance(part, TextPart):
        return _delta(content=part.text)
    if isinstance(part, CallArguments):
        return _delta(tool_calls=[{"index": index, "function": {"arguments": part.text}}])
    return _delta(tool_calls=[{"index": index, **_call(part.name, "")}])


def _whole_calls(parts: Iterable[Part]) -> list[Fields]:
    calls: list[tuple[str, list[str]]] = []
    for part in parts:
        if isinstance(part, CallBegun):
            calls.append((part.name, []))
        elif isinstance(part, CallArguments):
            calls[-1][1].append(part.text)
    return [_call(name, "".join(arguments)) for name, arguments in calls]


def _call(name: str, arguments: str) -> Fields:
    about = {"name": name, "arguments": arguments}
    return {"id": new_call_id(), "type": "function", "function": about}


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _message(content: str | None, calls: Sequence[Fields] = ()) -> Fields:
    message: Fields = {"role": "assistant", "content": content, "refusal": None}
    return {"message": {**message, "tool_calls": calls} if calls else message}


def _delta(**fields: object) -> Delta:
    return Delta({"delta": fields})
