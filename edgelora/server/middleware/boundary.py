"""The outermost middleware: gives each request an id, turns exceptions into error replies, and counts the request.

It also writes the access log, one line a request, if the options ask for it. It is pure ASGI, because starlette's
function middleware hides the client's disconnect.
"""

from __future__ import annotations

import logging
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgelora.core.errors import EdgeloraError
from edgelora.server.http.errors import ClientGone, error_reply
from edgelora.server.http.reply import _EXTRA, send_reply
from edgelora.server.telemetry.counters import Counters
from edgelora.server.telemetry.request_record import RequestRecord, open_record

logger = logging.getLogger(__name__)
access = logging.getLogger("edgelora.access")

NO_ROUTE = "(none)"
LOGGED_PATH = 200
"""Maximum bytes of a path in the access log."""


class Boundary:
    def __init__(self, app: ASGIApp, counters: Counters, *, access_log: bool = False) -> None:
        self._app = app
        self._counters = counters
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, record = f"req_{uuid.uuid4().hex}", open_record(self._counters)
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
        finally:
            record.end(_route(scope), status)
            if self._access_log:
                _log(request_id, scope, status, record)


def _route(scope: Scope) -> str:
    """Return the template of the route that answered, of which there is a bounded number."""
    return str(getattr(scope.get("route"), "path", NO_ROUTE))


def _log(request_id: str, scope: Scope, status: int, record: RequestRecord) -> None:
    # Never the query, the headers or the body: they are private.
    path = scope["raw_path"][:LOGGED_PATH].decode("ascii", "backslashreplace")
    tokens = record.tokens
    fields = {
        "request_id": request_id,
        "method": scope["method"],
        "path": path,
        "status": status,
        "ms": round(1000 * (time.monotonic() - record.began), 1),
        "adapter": record.adapter,
        "prompt_tokens": tokens.prompt if tokens else 0,
        "cached_tokens": tokens.cached if tokens else 0,
        "completion_tokens": tokens.completion if tokens else record.deltas,
    }
    access.info(
        "%(request_id)s %(method)s %(path)s %(status)d %(ms).1f ms, adapter %(adapter)s, tokens %(prompt_tokens)d in"
        " (%(cached_tokens)d cached), %(completion_tokens)d out",
        fields,
        extra={"fields": fields},
    )


async def _send_error(error: Exception, send: Send) -> None:
    reply = error_reply(error)
    await send_reply(send, reply.status, ((b"content-type", b"application/json"), *reply.headers), reply.body)
