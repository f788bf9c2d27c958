"""/v1/fine_tunings: Groq's way to register an uploaded adapter. Each installed version is a fine-tuning.

`create` replies when the adapter is installed, because the model id ends with the adapter's digest. An upload that
cannot be installed is refused in that reply.
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
from edgelora.server.management.manager import Manager, in_thread, reply, warning_fields

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
                "GET", path, self.index, access, "listFineTunings",
                "List the adapter versions as Groq's fine-tunings", reply=FineTuningList
            ),
            Endpoint(
                "POST", path, self.create, access, "createFineTuning", "Install an uploaded adapter through Groq's API",
                body=FineTuningBody, reply=FineTuningObject,
            ),
            Endpoint(
                "GET", f"{path}/{{id}}", self.retrieve, access, "retrieveFineTuning", "Retrieve an adapter version",
                reply=FineTuningObject,
            ),
            Endpoint(
                "DELETE", f"{path}/{{id}}", self.delete, access, "deleteFineTuning", "Uninstall an adapter version",
                reply=Deleted,
            ),
        )  # fmt: skip

    async def create(self, request: Request) -> Response:
        body = typed(await self._manager.read(request), FineTuningBody)
        self._manager.check_base(body.base_model, param="base_model")
        source: Source = await in_thread(lambda: self._manager.uploaded(body.input_file_id, param="input_file_id"))
        installed = await self._manager.install(Task("fine_tuning", body.name, str(source)), source)
        base = self._manager.registry.base.name
        adapter = InstalledAdapter(installed.manifest, installed.version)
        return reply(_object(fields(adapter, base) | {"input_file_id": body.input_file_id}))

    async def index(self, _request: Request) -> Response:
        versions = await in_thread(self._manager.registry.versions)
        base = self._manager.registry.base.name
        return reply({"object": "list", "data": [fields(adapter, base) for adapter in versions]})

    async def retrieve(self, request: Request) -> Response:
        adapter = await in_thread(lambda: self._find(request.path_params["id"]))
        return reply(_object(fields(adapter, self._manager.registry.base.name)))

    async def delete(self, request: Request) -> Response:
        """Uninstall the version."""
        tuning_id = request.path_params["id"]

        def remove() -> None:
            adapter = self._find(tuning_id)
            self._manager.registry.remove(f"{adapter.manifest.name}@{adapter.version.number}")

        await in_thread(remove)
        return reply({"id": tuning_id, "object": "fine_tuning", "deleted": True})

    def _find(self, tuning_id: str) -> InstalledAdapter:
        for adapter in self._manager.registry.versions():
            if identify(adapter.manifest.name, adapter.version.digest) == tuning_id:
                return adapter
        raise NotFound("fine_tuning", tuning_id, (), "GET /v1/fine_tunings lists all.")


def identify(name: str, digest: str) -> str:
    """Return the id of a version as a fine-tuning. It depends only on the name and the digest."""
    return f"ft_{hashlib.sha256(f'{name}@{digest}'.encode()).hexdigest()[:24]}"


def fields(adapter: InstalledAdapter, base: str) -> dict[str, object]:
    name, version = adapter.manifest.name, adapter.version
    kind, _, origin = version.origin.partition(":")
    return {
        "id": identify(name, version.digest),
        "name": name,
        "base_model": base,
        "type": "lora",
        "input_file_id": (origin or None) if kind == UPLOADED else None,
        "created_at": int(version.created),
        "fine_tuned_model": f"ft:{base}:{ORGANIZATION}/{name}-{version.digest[:12]}",
        "warnings": warning_fields(version),
    }


def _object(data: dict[str, object]) -> dict[str, object]:
    return {"id": data["id"], "object": "fine_tuning", "data": data}
