"""/v1/responses and what hangs on it: create, whole, streamed or in the background; retrieve, delete, cancel; items."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from edgelora.core.errors import EdgeloraError, UsageError
from edgelora.core.events import Event, Failed, Finished
from edgelora.runtime.interface import Runtime
from edgelora.server.api.openai.tokenize import InputTokens, count_chat
from edgelora.server.api.responses.as_chat import chat_body, in_our_words
from edgelora.server.api.responses.background import Background
from edgelora.server.api.responses.begun import StartedResponse, begin, said
from edgelora.server.api.responses.body import parse_responses
from edgelora.server.api.responses.events import ResponseWriter
from edgelora.server.api.responses.store import ResponseStore, ResponseStoreLimits, StoredResponse
from edgelora.server.api.responses.types import DeletedResponse, Item, ItemList
from edgelora.server.auth.caller import caller
from edgelora.server.generation.follow import Events, follow
from edgelora.server.generation.generate import STREAM_HEADERS, log_unknown, send_frames
from edgelora.server.generation.request_body import invalid, unsupported
from edgelora.server.http.drain import Drain
from edgelora.server.http.json_body import parse_object
from edgelora.server.http.json_route import JSON_HEADERS, JsonRoute, read_json
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.reply import send_reply


class ResponsesRoutes:
    """One memory for all prefixes."""

    def __init__(self, runtime: Runtime, options: ServerOptions, drain: Drain) -> None:
        self._runtime = runtime
        self._options = options
        self._store = ResponseStore(ResponseStoreLimits(), clock=time.monotonic)
        self._background = Background(self._store, drain)
        self._create = _Create(runtime, options, drain, self._store, self._background)

    def routes(self, prefix: str) -> list[Route]:
        at = f"{prefix}/responses"
        count = JsonRoute(self._options, self._count)
        return [
            Route(at, self._create, methods=["POST"]),
            Route(f"{at}/input_tokens", count, methods=["POST"]),
            Route(f"{at}/{{id}}", self._one, methods=["GET", "DELETE"]),
            Route(f"{at}/{{id}}/cancel", self._cancel, methods=["POST"]),
            Route(f"{at}/{{id}}/input_items", self._items, methods=["GET"]),
        ]

    def _count(self, raw: dict[str, object]) -> InputTokens:
        """How many tokens the prompt of such a body has. `model` may be left out."""
        raw = {"model": self._runtime.base.name, **raw}
        body = parse_responses(raw)
        before, inputs, _ = said(self._store, body)
        try:
            return count_chat(self._runtime, chat_body(raw, body, (*before, *inputs)))
        except EdgeloraError as error:
            raise in_our_words(error) from None

    async def _one(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        if request.method == "DELETE":
            self._store.remove(response_id, owner=caller().name)
            await self._background.cancel(response_id)
            return _json(DeletedResponse(response_id))
        if request.query_params.get("stream") == "true":
            raise unsupported("stream", (False,))
        return _json(self._kept(request).response)

    async def _cancel(self, request: Request) -> Response:
        if not self._kept(request).response.background:
            raise UsageError(
                "not_background",
                "Only a response that was asked for with 'background': true can be cancelled.",
                "To end another one, close its connection.",
            )
        await self._background.cancel(request.path_params["id"])
        return _json(self._kept(request).response)

    async def _items(self, request: Request) -> Response:
        return _json(_page(self._kept(request).inputs, request))

    def _kept(self, request: Request) -> StoredResponse:
        return self._store.get(request.path_params["id"], owner=caller().name)


@dataclass(frozen=True, slots=True)
class _Create:
    """The ASGI app of POST /v1/responses."""

    runtime: Runtime
    options: ServerOptions
    drain: Drain
    store: ResponseStore
    background: Background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_json(scope, receive, self.options)
        begun = await to_thread.run_sync(lambda: begin(self.runtime, self.store, parse_object(raw)))
        if begun.body.background:
            self.background.start(begun)
            await send_reply(send, 200, JSON_HEADERS, msgspec.json.encode(begun.response))
            return
        tick = self.options.keepalive_seconds
        async with aclosing(
            follow(begun.stream, receive=receive, drain=self.drain, tick=tick, timeouts=self.options.timeouts)
        ) as events:
            if begun.body.stream:
                await self._send_stream(begun, events, send)
            else:
                await self._send_whole(begun, events, send)

    async def _send_whole(self, begun: StartedResponse, events: Events, send: Send) -> None:
        writer = ResponseWriter(begun.response, begun.chat_format)
        async for event in events:
            if isinstance(event, Failed):
                raise event.error
            writer.event(event, now=int(time.time()))
        self._keep(begun, writer)
        await send_reply(send, 200, JSON_HEADERS, msgspec.json.encode(writer.response))

    async def _send_stream(self, begun: StartedResponse, events: Events, send: Send) -> None:
        first = await anext(events)
        if isinstance(first, Failed):
            # Nothing has been sent yet, so the client can have a status and not only an event.
            raise first.error
        writer = ResponseWriter(begun.response, begun.chat_format)
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        await send_frames(send, writer.opening() + self._frames(begun, writer, first))
        async for event in events:
            await send_frames(send, self._frames(begun, writer, event))
        await send({"type": "http.response.body", "body": b""})

    def _frames(self, begun: StartedResponse, writer: ResponseWriter, event: Event | None) -> bytes:
        frames = writer.event(event, now=int(time.time()))
        if isinstance(event, Failed):
            log_unknown(event.error)
        if isinstance(event, Finished):
            # Before its end is told: who reads that may go on from it at once.
            self._keep(begun, writer)
        return frames

    def _keep(self, begun: StartedResponse, writer: ResponseWriter) -> None:
        if begun.response.store:
            self.store.put(begun.kept(writer.response))


def _page(items: tuple[Item, ...], request: Request) -> ItemList:
    """The latest first, 20 of them, unless the query says otherwise. Raises UsageError for what it cannot say."""
    query = request.query_params
    order, limit, after = query.get("order", "desc"), query.get("limit", "20"), query.get("after")
    if order not in ("asc", "desc"):
        raise invalid("order", "must be 'asc' or 'desc'")
    if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= 100):
        raise invalid("limit", "must be a number from 1 to 100")
    ordered = list(items) if order == "asc" else list(reversed(items))
    ids = [item.id for item in ordered]
    if after is not None and after not in ids:
        raise invalid("after", "names no item of this response")
    rest = ordered[ids.index(after) + 1 :] if after is not None else ordered
    page = rest[: int(limit)]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return ItemList(data=page, first_id=first, last_id=last, has_more=len(rest) > len(page))


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
