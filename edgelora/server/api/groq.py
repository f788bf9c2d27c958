"""/v1/fine_tunings: Groq's way to register an uploaded adapter. A version is a fine-tuning; nothing else is kept.

`create` answers when the adapter is installed, because the id it gives out ends in the adapter's own digest; what is
wrong with an upload is its answer then.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from edgelora.core.errors import NotFound
from edgelora.runtime.adapter_registry import InstalledAdapter
from edgelora.runtime.install.sources import UPLOADED, Source
from edgelora.server.api.groq_replies import FineTuningList, FineTuningObject
from edgelora.server.api.openai.replies import Deleted
from edgelora.server.http.endpoint import Access, Endpoint
from edgelora.server.http.validation import typed
from edgelora.server.management.jobs import Task
from edgelora.server.management.manager import Manager, in_thread, reply

ORGANIZATION = "org_local"

Text = Annotated[str, Meta(min_length=1, max_length=512)]


class FineTuningBody(Struct, frozen=True):
    input_file_id: Text
    name: Text
    base_model: Text
    type: Literal["lora"] = "lora"


class GroqRoutes:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def endpoints(self) -> tuple[Endpoint, ...]:
        path, access = "/v1/fine_tunings", Access.MANAGEMENT
        return (
            Endpoint(
                "GET", path, self.index, access, "listFineTunings", "Adapters, Groq's way", reply=FineTuningList
            ),
            Endpoint(
                "POST", path, self.create, access, "createFineTuning", "Install an upload, Groq's way",
                body=FineTuningBody, reply=FineTuningObject,
            ),
            Endpoint(
                "GET", f"{path}/{{id}}", self.retrieve, access, "retrieveFineTuning", "One version",
                reply=FineTuningObject,
            ),
            Endpoint(
                "DELETE", f"{path}/{{id}}", self.delete, access, "deleteFineTuning", "Uninstall a version",
                reply=Deleted,
            ),
        )  # fmt: skip

    async def create(self, request: Request) -> Response:
        body = typed(await self._manager.read(request), FineTuningBody)
        self._manager.check_base(body.base_model, param="base_model")
        source: Source = await in_thread(lambda: self._manager.uploaded(body.input_file_id, param="input_file_id"))
        installed = await self._manager.install(Task("fine_tuning", body.name, str(source)), source)
        base = self._manager.registry.base.name
        held = InstalledAdapter(installed.manifest, installed.version)
        return reply(_object(fields(held, base) | {"input_file_id": body.input_file_id}))

    async def index(self, _request: Request) -> Response:
        found = await in_thread(self._manager.registry.versions)
        base = self._manager.registry.base.name
        return reply({"object": "list", "data": [fields(held, base) for held in found]})

    async def retrieve(self, request: Request) -> Response:
        held = await in_thread(lambda: self._find(request.path_params["id"]))
        return reply(_object(fields(held, self._manager.registry.base.name)))

    async def delete(self, request: Request) -> Response:
        """The version it stands for is uninstalled."""
        tuning_id = request.path_params["id"]

        def remove() -> None:
            held = self._find(tuning_id)
            self._manager.registry.remove(f"{held.manifest.name}@{held.version.number}")

        await in_thread(remove)
        return reply({"id": tuning_id, "object": "fine_tuning", "deleted": True})

    def _find(self, tuning_id: str) -> InstalledAdapter:
        for held in self._manager.registry.versions():
            if identify(held.manifest.name, held.version.digest) == tuning_id:
                return held
        raise NotFound("fine_tuning", tuning_id, (), "GET /v1/fine_tunings lists what there is.")


def identify(name: str, digest: str) -> str:
    """The id of a version as a fine-tuning: the same whoever installed it, and after a restart."""
    return f"ft_{hashlib.sha256(f'{name}@{digest}'.encode()).hexdigest()[:24]}"


def fields(held: InstalledAdapter, base: str) -> dict[str, object]:
    name, version = held.manifest.name, held.version
    kind, _, origin = version.origin.partition(":")
    return {
        "id": identify(name, version.digest),
        "name": name,
        "base_model": base,
        "type": "lora",
        "input_file_id": (origin or None) if kind == UPLOADED else None,
        "created_at": int(version.created),
        "fine_tuned_model": f"ft:{base}:{ORGANIZATION}/{name}-{version.digest[:12]}",
    }


def _object(data: dict[str, object]) -> dict[str, object]:
    return {"id": data["id"], "object": "fine_tuning", "data": data}
