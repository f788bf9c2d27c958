"""POST /v1/embeddings, which is refused: a base model for generation has no useful embeddings."""

from __future__ import annotations

from msgspec import Struct

from edgelora.server.http.endpoint import Access, Endpoint
from edgelora.server.http.error_types import ErrorReply
from edgelora.server.http.errors import NotOffered
from edgelora.server.http.json_route import JsonRoute
from edgelora.server.http.options import ServerOptions


class EmbeddingsBody(Struct, frozen=True):
    """Any JSON object: the reply is always the same."""


def embeddings_endpoints(options: ServerOptions) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            "POST", "/v1/embeddings", JsonRoute(options, _refuse), Access.KEY, "createEmbedding", "Not supported",
            body=EmbeddingsBody, reply=ErrorReply, status=501,
        ),
    )  # fmt: skip


def _refuse(_raw: dict[str, object]) -> object:
    raise NotOffered(
        "embeddings_not_supported",
        "This server generates text; it has no embeddings.",
        "Use a server with an embedding model for them.",
    )
