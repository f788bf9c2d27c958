"""How /v1/chat/completions words a choice: words, calls of functions, logprobs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
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
class Parts:
    """One answer's text taken apart into words and calls, each with the index of the latest call."""

    manner: Manner
    reader: CallReader | None = field(init=False)
    calls: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.reader = None if self.manner.reader is None else self.manner.reader()

    def feed(self, text: str) -> list[tuple[int, Part]]:
        return self._kept([Words(text)] if self.reader is None else self.reader.feed(text))

    def finish(self, reason: FinishReason) -> list[tuple[int, Part]]:
        return [] if self.reader is None else self._kept(self.reader.finish(cut=reason is FinishReason.LENGTH))

    def _kept(self, parts: Iterable[Part]) -> list[tuple[int, Part]]:
        """Nothing behind the first call where no more are wanted."""
        kept: list[tuple[int, Part]] = []
        for part in parts:
            self.calls += isinstance(part, CallBegun)
            if self.manner.several or self.calls == 0 or (self.calls == 1 and not isinstance(part, Words)):
                kept.append((self.calls - 1, part))
        return kept


@dataclass(slots=True)
class ChatWording:
    manner: Manner
    _parts: Parts = field(init=False)

    def __post_init__(self) -> None:
        self._parts = Parts(self.manner)

    def opening(self) -> Sequence[Said]:
        return (_delta(role="assistant", content=""),)

    def more(self, delta: TextDelta) -> Sequence[Said]:
        if self._parts.reader is not None:
            return [_part(index, part) for index, part in self._parts.feed(delta.text)]
        tokens = chat_logprobs(delta.tokens) if self.manner.logprobs else None
        return (Said({"delta": {"content": delta.text}}, tokens),)

    def closing(self, reason: FinishReason) -> Ending:
        told = [_part(index, part) for index, part in self._parts.finish(reason)]
        return Ending((*told, _delta()), self._reason(reason))

    def whole(self, deltas: Sequence[TextDelta], reason: FinishReason) -> Ending:
        if self._parts.reader is None:
            tokens = chat_logprobs(scored(deltas)) if self.manner.logprobs else None
            return Ending((Said(_message(text_of(deltas)), tokens),), str(reason))
        told = [one for delta in deltas for one in self._parts.feed(delta.text)]
        parts = [part for _, part in (*told, *self._parts.finish(reason))]
        words = "".join(part.text for part in parts if isinstance(part, Words))
        calls = _whole_calls(parts)
        return Ending((Said(_message(words or (None if calls else ""), calls)),), self._reason(reason))

    def _reason(self, reason: FinishReason) -> str:
        return CALLED if self._parts.calls and reason is FinishReason.STOP else str(reason)


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
    return {"id": new_call_id(), "type": "function", "function": about}


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _message(content: str | None, calls: Sequence[Fields] = ()) -> Fields:
    message: Fields = {"role": "assistant", "content": content, "refusal": None}
    return {"message": {**message, "tool_calls": calls} if calls else message}


def _delta(**fields: object) -> Said:
    return Said({"delta": fields})
