"""The shape of answers for Together's clients, where it differs from OpenAI's: strict clients accept no other."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from edgelora.server.generation.choice_writer import Fields
from edgelora.server.generation.sse import KEEPALIVE, ReplyShape

_CHAT_CHUNK = "chat.completion.chunk"
_TEXT_CHUNK = "completion.chunk"


def together_shape(shape: ReplyShape) -> ReplyShape:
    """Return OpenAI's `shape` with what Together's types require.

    Whole answers have a `prompt`, and chat deltas a role. Completions are called `text.completion`, and their chunks
    `completion.chunk`; the token, the finish reason and the usage of a chunk stand beside its choice.
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
