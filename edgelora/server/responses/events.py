"""A generation's events as those of the Responses API, and as the response they add up to. Pure: no clock, no socket.

Order: created, in_progress; for each item output_item.added, its content, output_item.done; at last completed,
incomplete or failed. Every event has the next sequence number.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from edgelora.core import Failed, Finished, FinishReason, TextDelta, Usage
from edgelora.server.errors import told
from edgelora.server.responses.body import new_id
from edgelora.server.responses.types import (
    IncompleteDetails,
    InputTokensDetails,
    Item,
    ItemStatus,
    MessageItem,
    OutputText,
    ResponseFault,
    ResponseObject,
    ResponseUsage,
)
from edgelora.server.sse import DONE, KEEPALIVE

Fields = dict[str, Any]


class ResponseWriter:
    """From a generation's events to frames, and to `response`, which is at any moment what there is of it."""

    def __init__(self, response: ResponseObject) -> None:
        """`response`: in progress, without output."""
        self.response = response
        self._number = 0
        self._item = MessageItem(id=new_id("msg"), role="assistant", content=[], status="in_progress")
        self._texts: list[str] = []

    def opening(self) -> bytes:
        """What stands before the first text."""
        item = self._item
        return b"".join(
            (
                self._whole("response.created"),
                self._whole("response.in_progress"),
                self._event("response.output_item.added", output_index=0, item=item),
                self._event("response.content_part.added", **self._place, part=OutputText("")),
            )
        )

    def event(self, event: TextDelta | Finished | Failed | None, *, now: int) -> bytes:
        """One event's frames; None is silence that needs a sign of life. `now`: Unix seconds."""
        if event is None:
            return KEEPALIVE
        if isinstance(event, TextDelta):
            self._texts.append(event.text)
            return self._event("response.output_text.delta", **self._place, delta=event.text, logprobs=[])
        return self._end(event, now) + DONE

    def _end(self, event: Finished | Failed, now: int) -> bytes:
        if isinstance(event, Failed):
            self._fail(event.error)
            return self._whole("response.failed")
        cut = event.reason is FinishReason.LENGTH
        item = self._close("incomplete" if cut else "completed")
        self.response = replace(
            self.response,
            status="incomplete" if cut else "completed",
            completed_at=None if cut else now,
            incomplete_details=IncompleteDetails("max_output_tokens") if cut else None,
            output=[item],
            usage=_usage(event.usage),
        )
        part = item.content[0]
        return b"".join(
            (
                self._event("response.output_text.done", **self._place, text=item.text, logprobs=[]),
                self._event("response.content_part.done", **self._place, part=part),
                self._event("response.output_item.done", output_index=0, item=item),
                self._whole("response.incomplete" if cut else "response.completed"),
            )
        )

    def _fail(self, error: Exception) -> None:
        output: list[Item] = [self._close("incomplete")] if self._texts else []
        fault = ResponseFault("server_error", told(error))
        self.response = replace(self.response, status="failed", error=fault, output=output)

    def _close(self, status: ItemStatus) -> MessageItem:
        return replace(self._item, status=status, content=[OutputText("".join(self._texts))])

    @property
    def _place(self) -> Fields:
        return {"item_id": self._item.id, "output_index": 0, "content_index": 0}

    def _whole(self, kind: str) -> bytes:
        return self._event(kind, response=self.response)

    def _event(self, kind: str, **fields: object) -> bytes:
        payload = msgspec.json.encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + payload + b"\n\n"


def _usage(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )
