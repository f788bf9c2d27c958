"""An endpoint that takes a JSON object and returns a JSON value, computed in a thread.

Knows no field names: each API brings a function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from edgelora.server.http.json_body import parse_object, read_body
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.reply import send_reply
from edgelora.server.http.workers import run_text

JSON_HEADERS = ((b"content-type", b"application/json"),)

Work = Callable[[dict[str, object]], object]
"""Computes the reply, a value that msgspec can encode, from a parsed body: work on text, in a thread of its own.
Raises EdgeloraError.
"""


async def read_json(scope: Scope, receive: Receive, options: ServerOptions) -> bytes:
    """Return a JSON body, not parsed yet. Raises as `read_body` does."""
    length = Headers(scope=scope).get("content-length")
    declared = None if length is None else int(length)
    return await read_body(receive, declared=declared, limit=options.body_bytes, seconds=options.body_seconds)


@dataclass(frozen=True, slots=True)
class JsonRoute:
    """The ASGI application of one such endpoint."""

    options: ServerOptions
    work: Work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_json(scope, receive, self.options)
        reply = await run_text(lambda: msgspec.json.encode(self.work(parse_object(raw))))
        await send_reply(send, 200, JSON_HEADERS, reply)
