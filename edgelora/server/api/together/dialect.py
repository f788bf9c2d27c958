"""Together's words for answers, where they are not OpenAI's: its clients, where they are strict, take no others.

Known by the User-Agent that its 2.x and 3.x packages send. To everybody else nothing changes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

from starlette.datastructures import Headers

from edgelora.server.generation.choice_writer import Fields
from edgelora.server.generation.sse import KEEPALIVE, ReplyShape

_AGENT = re.compile(r"(?:Async)?Together/")
_CHAT_CHUNK = "chat.completion.chunk"
_TEXT_CHUNK = "completion.chunk"


def from_together(headers: Headers) -> bool:
    return _AGENT.match(headers.get("user-agent", "")) is not None


def in_its_words(shape: ReplyShape) -> ReplyShape:
    """`prompt` beside every whole answer, a role in every chat delta, and text that is called otherwise than OpenAI's:
    `text.completion`, of chunks `completion.chunk` with the token, the end and the usage beside the choice.
    """
    if shape.object.startswith("chat."):
        return replace(shape, finish=_finish_chat, filler=KEEPALIVE)
    return replace(
        shape,
        object=shape.object.replace("text_", "text."),
        chunk_object=_TEXT_CHUNK,
        finish=_finish_text,
        usage_apart=False,
        filler=KEEPALIVE,
    )


def _finish_chat(fields: Fields) -> Fields:
    if fields["object"] != _CHAT_CHUNK:
        return {**fields, "prompt": []}
    return {**fields, "choices": [_with_role(choice) for choice in _choices(fields)]}


def _finish_text(fields: Fields) -> Fields:
    if fields["object"] != _TEXT_CHUNK:
        return {**fields, "prompt": []}
    choice, *_ = _choices(fields)
    beside: Fields = {name: choice[name] for name in ("token", "finish_reason") if name in choice}
    kept = {name: value for name, value in choice.items() if name != "token"}
    return {**fields, **beside, "choices": [kept]}


def _choices(fields: Fields) -> list[Fields]:
    return cast("list[Fields]", fields["choices"])


def _with_role(choice: Fields) -> Fields:
    return {**choice, "delta": {"role": "assistant", **cast("Fields", choice["delta"])}}
