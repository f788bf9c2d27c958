"""Writing a generation's events as those of the Responses API, and as a response object. Pure: no clock, no socket.

The order is: created, in_progress; for each item output_item.added, its content, output_item.done; finally completed,
incomplete or failed. Sequence numbers increase by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from edgelora.core.events import Candidate, Event, Failed, Finished, FinishReason, ScoredToken, TextDelta, Usage
from edgelora.server.api.openai.chat_writer import AnswerParts, ChatFormat
from edgelora.server.api.responses.items import OpenCall, OpenItem, OpenMessage
from edgelora.server.api.responses.types import (
    ChosenPiece,
    IncompleteDetails,
    InputTokensDetails,
    Item,
    ItemStatus,
    LikelyPiece,
    ResponseFault,
    ResponseObject,
    ResponseUsage,
)
from edgelora.server.generation.choice_writer import spelled
from edgelora.server.generation.sse import DONE, KEEPALIVE
from edgelora.server.http.errors import error_message
from edgelora.text.tool_parser import CallArguments, CallBegun, Part, TextPart


class ResponseWriter:
    """Writes the frames of a response's stream, and keeps `response` up to date with them."""

    def __init__(self, response: ResponseObject, chat_format: ChatFormat) -> None:
        """`response`: the response object, in progress and without output."""
        self.response = response
        self._parts = AnswerParts(chat_format)
        self._number = 0
        self._output: list[Item] = []
        self._open: OpenItem | None = None

    def opening(self) -> bytes:
        """Return the frames before the first item."""
        return self._snapshot("response.created") + self._snapshot("response.in_progress")

    def event(self, event: Event | None, *, now: int) -> bytes:
        """Return the frames of an event; None stands for silence, for which a comment keeps the connection alive.

        `now`: the time in Unix seconds.
        """
        if event is None:
            return KEEPALIVE
        if isinstance(event, TextDelta):
            pieces = [_piece(token) for token in event.tokens]
            return b"".join(self._part(part, pieces) for _, part in self._parts.feed(event.text))
        return (self._fail(event.error) if isinstance(event, Failed) else self._end(event, now)) + DONE

    def _part(self, part: Part, pieces: Sequence[ChosenPiece] = ()) -> bytes:
        if isinstance(part, CallBegun):
            return self._begin(OpenCall(len(self._output) + (self._open is not None), part.name))
        frames = b""
        if isinstance(part, TextPart) and not isinstance(self._open, OpenMessage):
            frames = self._begin(OpenMessage(len(self._output) + (self._open is not None)))
        if isinstance(part, CallArguments) and not isinstance(self._open, OpenCall):
            return b""
        return frames + self._frames(self._open.more(part.text, pieces) if self._open is not None else ())

    def _begin(self, item: OpenItem) -> bytes:
        frames = self._close("completed")
        self._open = item
        return frames + self._frames(item.begin())

    def _close(self, status: ItemStatus) -> bytes:
        """Return the frames that end the open item, if there is one."""
        if self._open is None:
            return b""
        item, events = self._open.end(status)
        self._open = None
        self._output.append(item)
        return self._frames(events)

    def _end(self, event: Finished, now: int) -> bytes:
        frames = b"".join(self._part(part) for _, part in self._parts.finish(event.reason))
        if self._open is None and not self._output:
            frames += self._begin(OpenMessage(0))
        cut = event.reason is FinishReason.LENGTH
        frames += self._close("incomplete" if cut else "completed")
        self.response = replace(
            self.response,
            status="incomplete" if cut else "completed",
            completed_at=None if cut else now,
            incomplete_details=IncompleteDetails("max_output_tokens") if cut else None,
            output=self._output,
            usage=_usage(event.usage),
        )
        return frames + self._snapshot("response.incomplete" if cut else "response.completed")

    def _fail(self, error: Exception) -> bytes:
        self._close("incomplete")
        fault = ResponseFault("server_error", error_message(error))
        self.response = replace(self.response, status="failed", error=fault, output=self._output)
        return self._snapshot("response.failed")

    def _snapshot(self, kind: str) -> bytes:
        return self._frames([(kind, {"response": self.response})])

    def _frames(self, events: Sequence[tuple[str, dict[str, Any]]]) -> bytes:
        frames = []
        for kind, fields in events:
            payload = msgspec.json.encode({"type": kind, "sequence_number": self._number, **fields})
            self._number += 1
            frames.append(b"event: " + kind.encode() + b"\ndata: " + payload + b"\n\n")
        return b"".join(frames)


def _usage(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )


def _piece(token: ScoredToken) -> ChosenPiece:
    chosen = _likely(token.chosen)
    return ChosenPiece(chosen.token, chosen.bytes, chosen.logprob, [_likely(candidate) for candidate in token.top])


def _likely(candidate: Candidate) -> LikelyPiece:
    return LikelyPiece(spelled(candidate.piece), list(candidate.piece), candidate.logprob)
