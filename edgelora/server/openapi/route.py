"""GET /openapi.json: the document of the endpoints that the application has, this one included."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from edgelora.core.version import __version__
from edgelora.server.http.endpoint import JSON, Access, Endpoint


class OpenApiRoutes:
    def __init__(self, others: Iterable[Endpoint]) -> None:
        """`others`: all documented endpoints but this one."""
        self._endpoint = Endpoint(
            "GET", "/openapi.json", self._answer, Access.OPEN, "openapi", "Retrieve this document", reply=dict
        )
        self._documented = (self._endpoint, *others)

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (self._endpoint,)

    async def _answer(self, _request: Request) -> Response:
        return Response(await to_thread.run_sync(lambda: self._encoded), media_type=JSON)

    @cached_property
    def _encoded(self) -> bytes:
        # Made on the first request: making it takes longer than starting a server whose document nobody reads.
        from edgelora.server.openapi.document import document

        return msgspec.json.encode(document(self._documented, version=str(__version__)))
