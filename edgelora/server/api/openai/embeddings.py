"""POST /v1/embeddings: a clear no. A base for generation has no embeddings worth having, and none are made up."""

from __future__ import annotations

from msgspec import Struct
from starlette.routing import Route

from edgelora.server.http.errors import NotOffered
from edgelora.server.http.json_route import JsonRoute
from edgelora.server.http.options import ServerOptions


class EmbeddingsBody(Struct, frozen=True):
    """Whatever is asked for: the answer is the same."""


def embeddings_routes(prefix: str, options: ServerOptions) -> list[Route]:
    return [Route(f"{prefix}/embeddings", JsonRoute(options, _refuse), methods=["POST"])]


def _refuse(_raw: dict[str, object]) -> object:
    raise NotOffered(
        "embeddings_not_supported",
        "This server generates text; it has no embeddings.",
        "Use a server with an embedding model for them.",
    )
