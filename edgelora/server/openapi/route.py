"""GET /openapi.json."""

from __future__ import annotations

from functools import cache

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgelora.core.version import __version__


def openapi_routes() -> list[Route]:
    return [Route("/openapi.json", _answer, methods=["GET"])]


async def _answer(_request: Request) -> Response:
    return Response(await to_thread.run_sync(_encoded), media_type="application/json")


@cache
def _encoded() -> bytes:
    # Only here: a server whose document nobody reads need not have made it.
    from edgelora.server.openapi.api import API
    from edgelora.server.openapi.document import document

    return msgspec.json.encode(document(API, version=str(__version__)))
