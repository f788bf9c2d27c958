"""Reply."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope, Send

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
