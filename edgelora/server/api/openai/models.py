"""GET /v1/models and /v1/models/{id}: the base and its adapters as model entries."""

from __future__ import annotations

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from edgelora.runtime.interface import Runtime
from edgelora.runtime.model_card import ModelCard
from edgelora.server.api.openai.replies import Model, ModelList
from edgelora.server.generation.dialect import Dialects
from edgelora.server.http.endpoint import Access, Endpoint

OWNER = "edgelora"


class ModelsRoutes:
    def __init__(self, runtime: Runtime, dialects: Dialects) -> None:
        self._runtime = runtime
        self._dialects = dialects

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/models"
        return (
            Endpoint(
                "GET", path, self.index, Access.KEY, "listModels",
                "List the base and its adapters", reply=ModelList,
            ),
            Endpoint(
                "GET", f"{path}/{{id:path}}", self.retrieve, Access.KEY, "retrieveModel",
                "Retrieve a model by any form of its id", reply=Model,
            ),
        )  # fmt: skip

    async def index(self, request: Request) -> Response:
        cards = await to_thread.run_sync(self._runtime.models)
        return _json(self._dialects.of(request.headers).list_models([_fields(card) for card in cards]))

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
