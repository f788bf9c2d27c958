"""Sending whole responses, and adding headers to any response of a request."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope, Send

_EXTRA = "edgelora.headers"

RawHeaders = Iterable[tuple[bytes, bytes]]


def add_headers(scope: Scope, headers: RawHeaders) -> None:
    """Add headers to the response of this request, whoever sends it."""
    scope[_EXTRA].extend(headers)


async def send_reply(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    """Send a whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
