"""/v1/responses: create (whole, streamed or in the background), retrieve, delete, cancel, and list input items."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgelora.core.errors import EdgeloraError, UsageError
from edgelora.core.events import Event, Failed, Finished
from edgelora.runtime.interface import Runtime
from edgelora.server.api.openai.tokenize import InputTokens, count_chat
from edgelora.server.api.responses.as_chat import chat_body, with_own_field
from edgelora.server.api.responses.background import Background
from edgelora.server.api.responses.body import CancelBody, CountBody, ResponsesBody, parse_responses
from edgelora.server.api.responses.events import ResponseWriter
from edgelora.server.api.responses.started import StartedResponse, conversation, start
from edgelora.server.api.responses.store import ResponseStore, ResponseStoreLimits, StoredResponse
from edgelora.server.api.responses.types import DeletedResponse, Item, ItemList, ResponseObject
from edgelora.server.auth.caller import caller
from edgelora.server.generation.follow import Events, follow
from edgelora.server.generation.generate import STREAM_HEADERS, log_unknown, send_frames
from edgelora.server.generation.known_fields import RESPONSES_INERT
from edgelora.server.http.drain import Drain
from edgelora.server.http.endpoint import Access, Endpoint, Parameter
from edgelora.server.http.json_body import parse_object
from edgelora.server.http.json_route import JSON_HEADERS, JsonRoute, read_json
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.reply import send_reply
from edgelora.server.http.validation import invalid, unsupported
from edgelora.server.http.workers import run_start

_PAGE = (
    Parameter("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}, "Maximum number of items."),
    Parameter("order", {"enum": ["asc", "desc"], "default": "desc"}, "Order by time."),
    Parameter("after", {"type": "string"}, "Return the items after the one with this id."),
)


class ResponsesRoutes:
    """The endpoints of one store of responses."""

    def __init__(self, runtime: Runtime, options: ServerOptions, drain: Drain) -> None:
        self._runtime = runtime
        self._options = options
        self._store = ResponseStore(ResponseStoreLimits(), clock=time.monotonic)
        self._background = Background(self._store, drain, options.timeouts)
        self._create = _Create(runtime, options, drain, self._store, self._background)

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/responses"
        return (
            Endpoint(
                "POST", path, self._create, Access.KEY, "createResponse", "Create a response",
                body=ResponsesBody, inert=RESPONSES_INERT, reply=ResponseObject, streamed=True, metered=True,
            ),
            Endpoint(
                "POST", f"{path}/input_tokens", JsonRoute(self._options, self._count), Access.KEY,
                "countResponseTokens", "Count the prompt tokens of a response",
                body=CountBody, inert=RESPONSES_INERT, reply=InputTokens, metered=True,
            ),
            Endpoint(
                "GET", f"{path}/{{id}}", self._retrieve, Access.KEY, "retrieveResponse", "Retrieve a stored response",
                reply=ResponseObject,
            ),
            Endpoint(
                "DELETE", f"{path}/{{id}}", self._delete, Access.KEY, "deleteResponse", "Delete a stored response",
                reply=DeletedResponse,
            ),
            Endpoint(
                "POST", f"{path}/{{id}}/cancel", self._cancel, Access.KEY, "cancelResponse",
                "Cancel a background response", body=CancelBody, reply=ResponseObject,
            ),
            Endpoint(
                "GET", f"{path}/{{id}}/input_items", self._items, Access.KEY, "listInputItems",
                "List the input items of a response",
                reply=ItemList, query=_PAGE,
            ),
        )  # fmt: skip

    def _count(self, raw: dict[str, object]) -> InputTokens:
        """Count the prompt tokens of a body. `model` may be left out."""
        raw = {"model": self._runtime.base.name, **raw}
        body = parse_responses(raw)
        before, inputs, _ = conversation(self._store, body)
        try:
            return count_chat(self._runtime, chat_body(raw, body, (*before, *inputs)))
        except EdgeloraError as error:
            raise with_own_field(error) from None

    async def _retrieve(self, request: Request) -> Response:
        if request.query_params.get("stream") == "true":
            raise unsupported("stream", (False,))
        return _json(self._stored(request).response)

    async def _delete(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        self._store.remove(response_id, owner=caller().name)
        await self._background.cancel(response_id)
        return _json(DeletedResponse(response_id))

    async def _cancel(self, request: Request) -> Response:
        if not self._stored(request).response.background:
            raise UsageError(
                "not_background",
                "Only a response that was created with 'background': true can be cancelled.",
                "To end another one, close its connection.",
            )
        await self._background.cancel(request.path_params["id"])
        return _json(self._stored(request).response)

    async def _items(self, request: Request) -> Response:
        return _json(_page(self._stored(request).inputs, request))

    def _stored(self, request: Request) -> StoredResponse:
        return self._store.get(request.path_params["id"], owner=caller().name)


@dataclass(frozen=True, slots=True)
class _Create:
    """The ASGI application of POST /v1/responses."""

    runtime: Runtime
    options: ServerOptions
    drain: Drain
    store: ResponseStore
    background: Background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_json(scope, receive, self.options)
        started = await run_start(lambda: start(self.runtime, self.store, parse_object(raw)))
        if started.body.background:
            self.background.start(started)
            await send_reply(send, 200, JSON_HEADERS, msgspec.json.encode(started.response))
            return
        tick = self.options.keepalive_seconds
        async with aclosing(
            follow(started.stream, receive=receive, drain=self.drain, tick=tick, timeouts=self.options.timeouts)
        ) as events:
            if started.body.stream:
                await self._send_stream(started, events, send)
            else:
                await self._send_whole(started, events, send)

    async def _send_whole(self, started: StartedResponse, events: Events, send: Send) -> None:
        writer = ResponseWriter(started.response, started.chat_format)
        async for event in events:
            if isinstance(event, Failed):
                raise event.error
            writer.event(event, now=int(time.time()))
        self._store_response(started, writer)
        await send_reply(send, 200, JSON_HEADERS, msgspec.json.encode(writer.response))

    async def _send_stream(self, started: StartedResponse, events: Events, send: Send) -> None:
        first = await anext(events)
        if isinstance(first, Failed):
            # Nothing has been sent yet, so the client can get a status and not only an event.
            raise first.error
        writer = ResponseWriter(started.response, started.chat_format)
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        await send_frames(send, writer.opening() + self._frames(started, writer, first))
        async for event in events:
            await send_frames(send, self._frames(started, writer, event))
        await send({"type": "http.response.body", "body": b""})

    def _frames(self, started: StartedResponse, writer: ResponseWriter, event: Event | None) -> bytes:
        frames = writer.event(event, now=int(time.time()))
        if isinstance(event, Failed):
            log_unknown(event.error)
        if isinstance(event, Finished):
            # Before the last event is sent: its reader may continue the response at once.
            self._store_response(started, writer)
        return frames

    def _store_response(self, started: StartedResponse, writer: ResponseWriter) -> None:
        if started.response.store:
            self.store.put(started.stored(writer.response))


def _page(items: tuple[Item, ...], request: Request) -> ItemList:
    """Return a page of items, by default the latest 20 with the latest first. Raises UsageError for a bad query."""
    query = request.query_params
    order, limit, after = query.get("order", "desc"), query.get("limit", "20"), query.get("after")
    if order not in ("asc", "desc"):
        raise invalid("order", "must be 'asc' or 'desc'")
    if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= 100):
        raise invalid("limit", "must be a number from 1 to 100")
    ordered = list(items) if order == "asc" else list(reversed(items))
    ids = [item.id for item in ordered]
    if after is not None and after not in ids:
        raise invalid("after", "is not the id of an item of this response")
    rest = ordered[ids.index(after) + 1 :] if after is not None else ordered
    page = rest[: int(limit)]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return ItemList(data=page, first_id=first, last_id=last, has_more=len(rest) > len(page))


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
