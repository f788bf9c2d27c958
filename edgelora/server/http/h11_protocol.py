"""uvicorn's HTTP/1.1 protocol with JSON errors for malformed HTTP, and a time limit for every wait on the client.

uvicorn limits how long a connection may be idle between two requests. This protocol also limits how long the head of
a request may take, and how long a client may leave a response unread. Bodies have their own limits.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from edgelora.core.errors import UsageError
from edgelora.server.http.errors import error_reply

HEAD_SECONDS = 30.0
"""Maximum seconds for a request line with its headers, and for the rest of a request that was answered early."""
STALL_SECONDS = 300.0
"""Maximum seconds that a client may read nothing of a response that is waiting for it."""


class JsonH11Protocol(H11Protocol):
    """Writes no access log, because uvicorn's lines contain the query. The boundary middleware has its own."""

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.access_log = False
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # A running timer would keep the protocol and everything it refers to in memory.
        self._forget_head()
        self._forget_stall()
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._between_requests:
            self._await_head()
        else:
            self._forget_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._forget_stall()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._forget_stall()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        body = error_reply(UsageError("malformed_http", msg)).body
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        # After the beginning of another response a second head would be read as part of it.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()

    @property
    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        """Start the timer of a request's head; further bytes do not extend it."""
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._between_requests:
            self.transport.close()

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _forget_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
