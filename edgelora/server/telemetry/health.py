"""GET /health, which says that the process runs, and /ready, which says that the server accepts requests."""

from __future__ import annotations

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from edgelora.core.errors import Unavailable
from edgelora.runtime.interface import Runtime
from edgelora.server.http.drain import Drain
from edgelora.server.http.endpoint import Access, Endpoint


class State(Struct, frozen=True):
    status: str


class HealthRoutes:
    def __init__(self, runtime: Runtime, drain: Drain) -> None:
        self._runtime = runtime
        self._drain = drain

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("GET", "/health", self.health, Access.OPEN, "health", "Check that the process runs", reply=State),
            Endpoint(
                "GET", "/ready", self.ready, Access.OPEN, "ready", "Check that the server accepts requests",
                reply=State,
            ),
        )  # fmt: skip

    async def health(self, _request: Request) -> Response:
        return _state(b"ok")

    async def ready(self, _request: Request) -> Response:
        health = self._runtime.health()
        if self._drain.begun or health.state == "stopped":
            raise Unavailable("not_ready", "The server is shutting down.", "Ask again in a moment.")
        if health.state != "ready":
            raise Unavailable("not_ready", health.why, "Ask again in a moment.", retry_after=health.retry_after)
        return _state(b"ready")


def _state(name: bytes) -> Response:
    return Response(b'{"status":"' + name + b'"}', media_type="application/json")
