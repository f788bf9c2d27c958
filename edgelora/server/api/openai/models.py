"""GET /v1/models and /v1/models/{id}: the base and its adapters as model entries."""

from __future__ import annotations

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from edgelora.runtime.interface import Runtime
from edgelora.runtime.service import ModelCard
from edgelora.server.api.together.dialect import from_together

OWNER = "edgelora"


class ModelsRoutes:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def list(self, request: Request) -> Response:
        cards = await to_thread.run_sync(self._runtime.models)
        if from_together(request.headers):
            # To its client the list is the bare array that its own service sends.
            return _json([{**_fields(card), "type": "chat"} for card in cards])
        return _json({"object": "list", "data": [_fields(card) for card in cards]})

    async def retrieve(self, request: Request) -> Response:
        # The id may hold slashes: the clients send them as %2F, which the server below has decoded.
        card = await to_thread.run_sync(self._runtime.model, request.path_params["id"])
        return _json(_fields(card))


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _fields(card: ModelCard) -> dict[str, object]:
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": OWNER,
        "parent": card.parent,
        "root": card.root,
        "resident": card.resident,
        "pinned": card.pinned,
    }
