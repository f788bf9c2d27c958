"""How /v1/chat/completions words a choice: words, calls of functions, logprobs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from edgelora.core.events import FinishReason, TextDelta
from edgelora.server.generation.choice_writer import ChoiceEnd, Delta, Fields, chat_logprobs, scored, text_of
from edgelora.text.tool_parser import CallArguments, CallBegun, Part, TextPart, ToolParser

CALLED = "tool_calls"
"""The reason of an answer that called."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What of a request decides how its choices are worded."""

    logprobs: bool = False
    reader: Callable[[], ToolParser] | None = None
    """Makes what finds calls in the text; None where there are none to find."""
    several: bool = True
    """Whether calls beyond the first are told."""


@dataclass(slots=True)
class AnswerParts:
    """One answer's text taken apart into words and calls, each with the index of the latest call."""

    chat_format: ChatFormat
    reader: ToolParser | None = field(init=False)
    calls: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.reader = None if self.chat_format.reader is None else self.chat_format.reader()

    def feed(self, text: str) -> list[tuple[int, Part]]:
        return self._kept([TextPart(text)] if self.reader is None else self.reader.feed(text))

    def finish(self, reason: FinishReason) -> list[tuple[int, Part]]:
        return [] if self.reader is None else self._kept(self.reader.finish(cut=reason is FinishReason.LENGTH))

    def _kept(self, parts: Iterable[Part]) -> list[tuple[int, Part]]:
        """Nothing behind the first call where no more are wanted."""
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
        if self._parts.reader is not None:
            return [_part(index, part) for index, part in self._parts.feed(delta.text)]
        tokens = chat_logprobs(delta.tokens) if self.chat_format.logprobs else None
        return (Delta({"delta": {"content": delta.text}}, tokens),)

    def closing(self, reason: FinishReason) -> ChoiceEnd:
        told = [_part(index, part) for index, part in self._parts.finish(reason)]
        return ChoiceEnd((*told, _delta()), self._reason(reason))

    def whole(self, deltas: Sequence[TextDelta], reason: FinishReason) -> ChoiceEnd:
        if self._parts.reader is None:
            tokens = chat_logprobs(scored(deltas)) if self.chat_format.logprobs else None
            return ChoiceEnd((Delta(_message(text_of(deltas)), tokens),), str(reason))
        told = [one for delta in deltas for one in self._parts.feed(delta.text)]
        parts = [part for _, part in (*told, *self._parts.finish(reason))]
        words = "".join(part.text for part in parts if isinstance(part, TextPart))
        calls = _whole_calls(parts)
        return ChoiceEnd((Delta(_message(words or (None if calls else ""), calls)),), self._reason(reason))

    def _reason(self, reason: FinishReason) -> str:
        return CALLED if self._parts.calls and reason is FinishReason.STOP else str(reason)


def _part(index: int, part: Part) -> Delta:
    if isinstance(part, TextPart):
        return _delta(content=part.text)
    if isinstance(part, CallArguments):
        return _delta(tool_calls=[{"index": index, "function": {"arguments": part.text}}])
    return _delta(tool_calls=[{"index": index, **_call(part.name, "")}])


def _whole_calls(parts: Iterable[Part]) -> list[Fields]:
    found: list[tuple[str, list[str]]] = []
    for part in parts:
        if isinstance(part, CallBegun):
            found.append((part.name, []))
        elif isinstance(part, CallArguments):
            found[-1][1].append(part.text)
    return [_call(name, "".join(arguments)) for name, arguments in found]


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
