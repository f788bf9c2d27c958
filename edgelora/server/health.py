"""GET /health (the process answers) and /ready (a request sent now would be worked on)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edgelora.server.errors import Unavailable
from edgelora.server.follow import Drain
from edgelora.server.runtime import Runtime


class HealthRoutes:
    def __init__(self, runtime: Runtime, drain: Drain) -> None:
        self._runtime = runtime
        self._drain = drain

    async def health(self, _request: Request) -> Response:
        return _status(b"ok")

    async def ready(self, _request: Request) -> Response:
        if self._drain.begun or not self._runtime.ready():
            raise Unavailable("not_ready", "The server is starting or shutting down.", "Ask again in a moment.")
        return _status(b"ready")


def _status(word: bytes) -> Response:
    return Response(b'{"status":"' + word + b'"}', media_type="application/json")
