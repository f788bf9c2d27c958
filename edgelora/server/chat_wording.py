"""How /v1/chat/completions words a choice: words, calls of functions, logprobs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from edgelora.calls import CallArguments, CallBegun, CallReader, Part, Words
from edgelora.core import FinishReason, TextDelta
from edgelora.server.wording import Ending, Fields, Said, chat_logprobs, scored, text_of

CALLED = "tool_calls"
"""The reason of an answer that called."""


@dataclass(frozen=True, slots=True)
class Manner:
    """What of a request decides how its choices are worded."""

    logprobs: bool = False
    reader: Callable[[], CallReader] | None = None
    """Makes what finds calls in the text; None where there are none to find."""
    several: bool = True
    """Whether calls beyond the first are told."""


@dataclass(slots=True)
class ChatWording:
    manner: Manner
    _reader: CallReader | None = field(init=False)
    _calls: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._reader = None if self.manner.reader is None else self.manner.reader()

    def opening(self) -> Sequence[Said]:
        return (_delta(role="assistant", content=""),)

    def more(self, delta: TextDelta) -> Sequence[Said]:
        if self._reader is not None:
            return self._told(self._reader.feed(delta.text))
        tokens = chat_logprobs(delta.tokens) if self.manner.logprobs else None
        return (Said({"delta": {"content": delta.text}}, tokens),)

    def closing(self, reason: FinishReason) -> Ending:
        told = self._told(self._rest(reason))
        return Ending((*told, _delta()), self._reason(reason))

    def whole(self, deltas: Sequence[TextDelta], reason: FinishReason) -> Ending:
        text = text_of(deltas)
        if self._reader is None:
            tokens = chat_logprobs(scored(deltas)) if self.manner.logprobs else None
            return Ending((Said(_message(text), tokens),), str(reason))
        parts = [part for _, part in self._kept([*self._reader.feed(text), *self._rest(reason)])]
        words = "".join(part.text for part in parts if isinstance(part, Words))
        calls = _whole_calls(parts)
        return Ending((Said(_message(words or (None if calls else ""), calls)),), self._reason(reason))

    def _rest(self, reason: FinishReason) -> list[Part]:
        return [] if self._reader is None else self._reader.finish(cut=reason is FinishReason.LENGTH)

    def _reason(self, reason: FinishReason) -> str:
        return CALLED if self._calls and reason is FinishReason.STOP else str(reason)

    def _told(self, parts: Iterable[Part]) -> list[Said]:
        return [_part(index, part) for index, part in self._kept(parts)]

    def _kept(self, parts: Iterable[Part]) -> Iterator[tuple[int, Part]]:
        """Each with the index of its call; nothing behind the first call where no more are wanted."""
        for part in parts:
            self._calls += isinstance(part, CallBegun)
            if self.manner.several or self._calls == 0 or (self._calls == 1 and not isinstance(part, Words)):
                yield self._calls - 1, part


def _part(index: int, part: Part) -> Said:
    if isinstance(part, Words):
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
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": about}


def _message(content: str | None, calls: Sequence[Fields] = ()) -> Fields:
    message: Fields = {"role": "assistant", "content": content, "refusal": None}
    return {"message": {**message, "tool_calls": calls} if calls else message}


def _delta(**fields: object) -> Said:
    return Said({"delta": fields})
