"""The record of one HTTP request for the counters and the access log: names, numbers and times, never content.

The boundary middleware opens it; the code that follows an answer finds it in the context of the request's task.
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
    """Time at which the request's head had arrived, in seconds of time.monotonic, like all times here."""
    adapters: tuple[str, ...] | None = None
    """Names of the adapters that answer; empty for the base without any, None if the request generates nothing."""
    deltas: int = 0
    """Number of text deltas so far: tokens, except those that wait for the rest of a character."""
    tokens: Tokens | None = None
    """Token usage of the choices that are complete; None before the first."""
    _last: dict[int, float] = field(default_factory=dict)
    """Time of the latest text delta of each choice."""

    @property
    def adapter(self) -> str:
        """The request's label in the counters. On the event loop only."""
        return NO_MODEL if self.adapters is None else self.counters.label(self.adapters)

    def event(self, event: Event | None, now: float, *, choice: int = 0, prompt: bool = True) -> None:
        """Count an event of the answer. `choice`: its index, where the request has several.

        `prompt`: whether its prompt counts with it, or with another choice of the same prompt.
        """
        if isinstance(event, TextDelta):
            self._delta(now, choice)
        elif isinstance(event, Finished):
            usage = event.usage
            tokens = Tokens(completion=usage.completion_tokens)
            if prompt:
                tokens = Tokens(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
            self.counters.count_tokens(self.adapter, tokens)
            self.tokens = tokens if self.tokens is None else self.tokens.plus(tokens)

    def end(self, route: str, status: int) -> None:
        """Count the request, once it was answered or its client disconnected."""
        self.counters.requests[route, status, self.adapter] += 1
        if self.tokens is None and self.deltas:
            # An answer that was cut off has no usage, and its tokens were computed all the same.
            self.counters.count_tokens(self.adapter, Tokens(completion=self.deltas))

    def _delta(self, now: float, choice: int) -> None:
        if not self.deltas:
            self.counters.observe_first_token(self.adapter, now - self.began)
        elif choice in self._last:
            self.counters.observe_gap(self.adapter, now - self._last[choice])
        self.deltas += 1
        self._last[choice] = now
        self.counters.speed.note(self.adapter, now)


_current: ContextVar[RequestRecord | None] = ContextVar("edgelora_record", default=None)


def open_record(counters: Counters) -> RequestRecord:
    """Open the record of the current request's task."""
    record = RequestRecord(counters, time.monotonic())
    _current.set(record)
    return record


def note_adapters(adapters: Iterable[str]) -> None:
    """Record which adapters answer the current request. In its task, or in a thread that works for it."""
    if (record := _current.get()) is not None:
        record.adapters = tuple(adapters)


def note_event(event: Event | None, *, choice: int = 0, prompt: bool = True) -> None:
    """Record an event of the current request's answer, as `RequestRecord.event`. On the event loop only."""
    if (record := _current.get()) is not None:
        record.event(event, time.monotonic(), choice=choice, prompt=prompt)
