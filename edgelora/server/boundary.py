"""The outermost middleware: gives each request an id, turns what is raised within into an error object, logs one line.

Pure ASGI, like everything here: starlette's function middleware hides the client's disconnect.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgelora.errors import EdgeloraError
from edgelora.server.errors import ClientGone, error_reply

logger = logging.getLogger(__name__)

_EXTRA = "edgelora.headers"

RawHeaders = Iterable[tuple[bytes, bytes]]


def add_headers(scope: Scope, headers: RawHeaders) -> None:
    """Have these headers in the response, whichever it will be."""
    scope[_EXTRA].extend(headers)


async def send_reply(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    """A whole response at once."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


class Boundary:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{uuid.uuid4().hex}"
        scope[_EXTRA] = [(b"x-request-id", request_id.encode())]
        status = 0

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *scope[_EXTRA]]}
            await send(message)

        try:
            await self._app(scope, receive, sender)
        except ClientGone:
            status = status or 499
        except Exception as error:
            if not isinstance(error, EdgeloraError):
                logger.exception("%s failed", request_id)
            if status:
                raise
            await _send_error(error, sender)
        # Never the query, the headers or the body: they are the user's.
        logger.info("%s %s %s %d", request_id, scope["method"], scope["raw_path"].decode("latin-1"), status)


async def _send_error(error: Exception, send: Send) -> None:
    reply = error_reply(error)
    await send_reply(send, reply.status, ((b"content-type", b"application/json"), *reply.headers), reply.body)
