"""One HTTP request, as the counters and the access log see it: names, numbers and times, never content.

The boundary makes it; whatever follows an answer finds it in the context of the request's task.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

from edgelora.core.events import Event, Finished, TextDelta
from edgelora.server.telemetry.counters import NO_MODEL, Counters, Tokens


@dataclass(slots=True)
class RequestRecord:
    counters: Counters
    began: float
    """When its head was there; seconds of time.monotonic, like all times here."""
    adapters: tuple[str, ...] | None = None
    """The names of those that are to answer; none of them is the base alone, None that no answer was asked for."""
    pieces: int = 0
    """Of text, so far: tokens, but for those that wait for the rest of a character."""
    tokens: Tokens | None = None
    """Once an answer is complete; the sum of them all, where it is several."""
    _last: dict[int, float] = field(default_factory=dict)
    """When the last piece of each answer came."""

    @property
    def adapter(self) -> str:
        """Its label in the counters. On the server's loop only."""
        return NO_MODEL if self.adapters is None else self.counters.label(self.adapters)

    def event(self, event: Event | None, now: float, *, answer: int = 0) -> None:
        """`answer`: which one, where a request has several."""
        if isinstance(event, TextDelta):
            self._piece(now, answer)
        elif isinstance(event, Finished):
            usage = event.usage
            found = Tokens(completion=usage.completion_tokens)
            if not answer:  # the prompt they share counts with the first
                found = Tokens(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
            self.counters.answered(self.adapter, found)
            self.tokens = found if self.tokens is None else self.tokens.plus(found)

    def end(self, route: str, status: int) -> None:
        """It was answered, or left."""
        self.counters.requests[route, status, self.adapter] += 1
        if self.tokens is None and self.pieces:
            # An answer that was broken off has no usage; what came of it was computed all the same.
            self.counters.answered(self.adapter, Tokens(completion=self.pieces))

    def _piece(self, now: float, answer: int) -> None:
        if not self.pieces:
            self.counters.began(self.adapter, now - self.began)
        elif answer in self._last:
            self.counters.went_on(self.adapter, now - self._last[answer])
        self.pieces += 1
        self._last[answer] = now
        self.counters.speed.note(self.adapter, now)


_current: ContextVar[RequestRecord | None] = ContextVar("edgelora_record", default=None)


def open_record(counters: Counters) -> RequestRecord:
    """For the rest of this request's task."""
    record = RequestRecord(counters, time.monotonic())
    _current.set(record)
    return record


def note_adapters(adapters: Iterable[str]) -> None:
    """The request that is being worked on is to be answered by these. In its task, or a thread that works for it."""
    if (record := _current.get()) is not None:
        record.adapters = tuple(adapters)


def note_event(event: Event | None, *, answer: int = 0) -> None:
    """The request that is being worked on got this. On the server's loop only."""
    if (record := _current.get()) is not None:
        record.event(event, time.monotonic(), answer=answer)
