"""The output items of a response while they are generated, with their events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgelora.server.api.openai.chat_writer import new_call_id
from edgelora.server.api.responses.body import new_id
from edgelora.server.api.responses.types import ChosenPiece, FunctionCallItem, ItemStatus, MessageItem, OutputText

Events = list[tuple[str, dict[str, Any]]]
"""Events, each with its type and its fields except the sequence number."""


@dataclass(slots=True)
class OpenMessage:
    index: int
    """The index among the items of the output."""
    id: str = field(default_factory=lambda: new_id("msg"))
    _texts: list[str] = field(default_factory=list)
    _pieces: list[ChosenPiece] = field(default_factory=list)

    def begin(self) -> Events:
        item = MessageItem(id=self.id, role="assistant", content=[], status="in_progress")
        return [
            ("response.output_item.added", {"output_index": self.index, "item": item}),
            ("response.content_part.added", {**self._place, "part": OutputText("")}),
        ]

    def more(self, text: str, pieces: Sequence[ChosenPiece]) -> Events:
        self._texts.append(text)
        self._pieces += pieces
        return [("response.output_text.delta", {**self._place, "delta": text, "logprobs": list(pieces)})]

    def end(self, status: ItemStatus) -> tuple[MessageItem, Events]:
        part = OutputText("".join(self._texts), logprobs=self._pieces)
        item = MessageItem(id=self.id, role="assistant", content=[part], status=status)
        return item, [
            ("response.output_text.done", {**self._place, "text": part.text, "logprobs": self._pieces}),
            ("response.content_part.done", {**self._place, "part": part}),
            ("response.output_item.done", {"output_index": self.index, "item": item}),
        ]

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}


@dataclass(slots=True)
class OpenCall:
    index: int
    """The index among the items of the output."""
    name: str
    id: str = field(default_factory=lambda: new_id("fc"))
    call_id: str = field(default_factory=new_call_id)
    _texts: list[str] = field(default_factory=list)

    def begin(self) -> Events:
        return [("response.output_item.added", {"output_index": self.index, "item": self._item("in_progress")})]

    def more(self, text: str, _pieces: Sequence[ChosenPiece]) -> Events:
        self._texts.append(text)
        place = {"item_id": self.id, "output_index": self.index}
        return [("response.function_call_arguments.delta", {**place, "delta": text})]

    def end(self, status: ItemStatus) -> tuple[FunctionCallItem, Events]:
        item = self._item(status)
        place = {"item_id": self.id, "output_index": self.index}
        done = {**place, "name": self.name, "arguments": item.arguments}
        return item, [
            ("response.function_call_arguments.done", done),
            ("response.output_item.done", {"output_index": self.index, "item": item}),
        ]

    def _item(self, status: ItemStatus) -> FunctionCallItem:
        arguments = "".join(self._texts)
        return FunctionCallItem(id=self.id, call_id=self.call_id, name=self.name, arguments=arguments, status=status)


OpenItem = OpenMessage | OpenCall
