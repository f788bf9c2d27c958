"""A response that is being generated."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgelora.core.errors import EdgeloraError, UsageError
from edgelora.engine.stream import Stream
from edgelora.runtime.interface import Runtime
from edgelora.server.api.openai.chat import begin_chat
from edgelora.server.api.openai.chat_writer import ChatFormat
from edgelora.server.api.responses.as_chat import chat_body, with_own_field
from edgelora.server.api.responses.body import ResponsesBody, input_items, new_id, parse_responses
from edgelora.server.api.responses.store import ResponseStore, StoredResponse
from edgelora.server.api.responses.types import Item, ResponseObject
from edgelora.server.auth.caller import caller


@dataclass(frozen=True, slots=True)
class StartedResponse:
    body: ResponsesBody
    response: ResponseObject
    """The response object, in progress and without output."""
    stream: Stream
    chat_format: ChatFormat
    before: tuple[Item, ...]
    """The items of the conversation before the input."""
    inputs: tuple[Item, ...]
    owner: str
    """The name of the caller's key."""

    def stored(self, response: ResponseObject) -> StoredResponse:
        return StoredResponse(response, self.before, self.inputs, self.owner)


def start(runtime: Runtime, store: ResponseStore, raw: dict[str, object]) -> StartedResponse:
    """Parse a body and start its generation. Blocking. Raises UsageError, NotFound and what the runtime raises."""
    body = parse_responses(raw)
    before, inputs, owner = conversation(store, body)
    try:
        started, chat_format = begin_chat(runtime, chat_body(raw, body, (*before, *inputs)))
    except EdgeloraError as error:
        raise with_own_field(error) from None
    return StartedResponse(body, _response(runtime, raw, body), started.streams[0], chat_format, before, inputs, owner)


def conversation(store: ResponseStore, body: ResponsesBody) -> tuple[tuple[Item, ...], tuple[Item, ...], str]:
    """Return the items before the input, the input, and the name of their owner. Raises UsageError and NotFound."""
    inputs, owner = input_items(body), caller().name
    if body.previous_response_id is None:
        return (), inputs, owner
    try:
        previous = store.get(body.previous_response_id, owner=owner)
    except EdgeloraError as error:
        error.param = "previous_response_id"
        raise
    if previous.response.status == "in_progress":
        message = "The previous response is still in progress."
        raise UsageError("response_in_progress", message, "Wait until it has ended.", param="previous_response_id")
    return previous.conversation, inputs, owner


def _response(runtime: Runtime, raw: Mapping[str, Any], body: ResponsesBody) -> ResponseObject:
    defaults = runtime.default_sampling()
    user = raw.get("user")
    return ResponseObject(
        id=new_id("resp"),
        created_at=int(time.time()),
        status="in_progress",
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=body.answering,
        previous_response_id=body.previous_response_id,
        service_tier=None if body.service_tier is None else "default",
        store=body.store is not False,
        temperature=defaults.temperature if body.temperature is None else body.temperature,
        text=(raw.get("text") or {}) | {"format": _format(raw)},
        tool_choice=body.tool_choice or "auto",
        tools=list(raw.get("tools") or ()),
        top_logprobs=body.top_logprobs or 0,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        top_p=defaults.top_p if body.top_p is None else body.top_p,
        user=user if isinstance(user, str) else None,
    )


def _format(raw: Mapping[str, Any]) -> dict[str, Any]:
    text_format = (raw.get("text") or {}).get("format")
    return {"type": "text"} if text_format is None else dict(text_format)
