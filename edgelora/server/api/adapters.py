"""/v1/adapters: edgelora's own endpoints for listing, adding and changing the adapters of the resident base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from edgelora.runtime.adapter_registry import InstalledAdapter
from edgelora.runtime.install.sources import Source
from edgelora.server.api.adapter_replies import Adapter, AdapterList, DeletedAdapter
from edgelora.server.api.openai.replies import Deleted
from edgelora.server.http.endpoint import Access, Endpoint
from edgelora.server.http.validation import invalid, missing, typed
from edgelora.server.management.hub_source import parse_repository
from edgelora.server.management.job_replies import InstallJob
from edgelora.server.management.job_routes import job_fields
from edgelora.server.management.jobs import Task
from edgelora.server.management.manager import Manager, in_thread, reply, warning_fields
from edgelora.store.adapters.manifest import AdapterManifest

Text = Annotated[str, Meta(min_length=1, max_length=512)]
VersionText = Annotated[str, Meta(min_length=1, max_length=128)] | Annotated[int, Meta(ge=1)]


class AddAdapterBody(Struct, frozen=True):
    """Has an upload (`file_id`), or a repository (`source`), with a token if that is private."""

    name: Text
    file_id: Text | None = None
    source: Text | None = None
    token: str | None = None


class AliasBody(Struct, frozen=True):
    version: VersionText


class RollbackBody(Struct, frozen=True):
    version: VersionText | None = None
    """The version to roll back to; None: the one before the current one."""


class AdaptersRoutes:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._registry = manager.registry

    def endpoints(self) -> tuple[Endpoint, ...]:
        path, access = "/v1/adapters", Access.MANAGEMENT
        return (
            Endpoint(
                "GET", path, self.index, Access.FULL_KEY, "listAdapters", "List the adapters",
                reply=AdapterList,
            ),
            Endpoint(
                "POST", path, self.add, access, "addAdapter", "Install an adapter from an upload or a repository",
                body=AddAdapterBody, reply=InstallJob, status=202,
            ),
            Endpoint(
                "GET", f"{path}/{{name}}", self.retrieve, Access.FULL_KEY, "retrieveAdapter", "Retrieve an adapter",
                reply=Adapter,
            ),
            Endpoint(
                "DELETE", f"{path}/{{name}}", self.delete, access, "deleteAdapter",
                "Uninstall an adapter", reply=DeletedAdapter
            ),
            *self._changes(f"{path}/{{name}}"),
            Endpoint(
                "DELETE", "/v1/models/{id:path}", self.delete_model, access, "deleteModel",
                "Uninstall an adapter by its model id",
                reply=Deleted,
            ),
        )  # fmt: skip

    def _changes(self, path: str) -> tuple[Endpoint, ...]:
        access, alias = Access.MANAGEMENT, f"{path}/aliases/{{alias}}"
        return (
            Endpoint(
                "POST", f"{path}/pin", self.pin, access, "pinAdapter", "Pin an adapter in memory",
                body_optional=True, reply=Adapter,
            ),
            Endpoint(
                "POST", f"{path}/unpin", self.unpin, access, "unpinAdapter", "Unpin an adapter",
                body_optional=True, reply=Adapter,
            ),
            Endpoint(
                "POST", f"{path}/warm", self.warm, access, "warmAdapter", "Load an adapter into memory",
                body_optional=True, reply=Adapter,
            ),
            Endpoint(
                "POST", f"{path}/rollback", self.roll_back, access, "rollBackAdapter",
                "Roll an adapter back to an older version", body=RollbackBody, body_optional=True, reply=Adapter,
            ),
            Endpoint(
                "PUT", alias, self.point, access, "pointAlias", "Point an alias at a version",
                body=AliasBody, reply=Adapter,
            ),
            Endpoint("DELETE", alias, self.unpoint, access, "deleteAlias", "Delete an alias", reply=Adapter),
        )  # fmt: skip

    async def index(self, _request: Request) -> Response:
        adapters = await in_thread(self._registry.latest)
        return reply({"object": "list", "data": [adapter_fields(adapter) for adapter in adapters]})

    async def retrieve(self, request: Request) -> Response:
        return await self._changed(request)

    async def add(self, request: Request) -> Response:
        """Start installing an adapter. Replies 202 with the job."""
        body = typed(await self._manager.read(request), AddAdapterBody)
        source = await in_thread(lambda: self._source(body))
        job, _ = self._manager.submit(Task("adapter", body.name, str(source)), source)
        answer = reply(job_fields(job), 202)
        answer.headers["location"] = f"/v1/jobs/{job.id}"
        return answer

    async def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        gone = await in_thread(lambda: self._registry.remove(name))
        versions = [version.number for version in gone]
        return reply({"id": name, "object": "adapter", "deleted": True, "versions": versions})

    async def delete_model(self, request: Request) -> Response:
        """Uninstall an adapter by any form of its model id, in OpenAI's shape."""
        model_id = request.path_params["id"]
        await in_thread(lambda: self._registry.remove(model_id))
        return reply({"id": model_id, "object": "model", "deleted": True})

    async def pin(self, request: Request) -> Response:
        return await self._changed(request, self._registry.pin)

    async def unpin(self, request: Request) -> Response:
        return await self._changed(request, self._registry.unpin)

    async def warm(self, request: Request) -> Response:
        """Load the adapter. If memory is full of adapters in use, it is only converted, which is no error."""
        return await self._changed(request, self._registry.warm)

    async def roll_back(self, request: Request) -> Response:
        body = typed(await self._read_optional(request), RollbackBody)
        selector = None if body.version is None else str(body.version)
        return await self._changed(request, lambda name: self._registry.roll_back(name, selector))

    async def point(self, request: Request) -> Response:
        body = typed(await self._manager.read(request), AliasBody)
        alias = request.path_params["alias"]
        return await self._changed(request, lambda name: self._registry.point(name, alias, str(body.version)))

    async def unpoint(self, request: Request) -> Response:
        alias = request.path_params["alias"]
        return await self._changed(request, lambda name: self._registry.unpoint(name, alias))

    async def _changed(self, request: Request, change: Callable[[str], object] | None = None) -> Response:
        """Reply with the adapter, after `change` if there is one."""
        name = request.path_params["name"]

        def work() -> InstalledAdapter:
            if change is not None:
                self._registry.get(name)  # raises this API's 404 for an unknown name
                change(name)
            return self._registry.get(name)

        return reply(adapter_fields(await in_thread(work)))

    async def _read_optional(self, request: Request) -> dict[str, object]:
        empty = "transfer-encoding" not in request.headers and request.headers.get("content-length", "0") == "0"
        return {} if empty else await self._manager.read(request)

    def _source(self, body: AddAdapterBody) -> Source:
        if (body.file_id is None) == (body.source is None):
            raise (
                missing("source")
                if body.source is None
                else invalid("source", "is sent together with 'file_id': send one of them")
            )
        if body.file_id is not None:
            return self._manager.uploaded(body.file_id, param="file_id")
        return parse_repository(body.source or "", token=body.token, param="source")


def adapter_fields(adapter: InstalledAdapter) -> dict[str, object]:
    """Return an adapter version as JSON fields; `requests`, `hits` and `last_use` are of all its versions.

    `hits` counts the requests whose adapter was in memory. Sizes are in bytes, times in Unix seconds.
    """
    manifest, version, entry, counts = adapter.manifest, adapter.version, adapter.entry, adapter.counts
    return {
        "id": manifest.name,
        "object": "adapter",
        "version": version.number,
        "digest": version.digest,
        "created": int(version.created),
        "base": version.base_name,
        "rank": version.rank,
        "alpha": version.alpha,
        "targets": list(version.targets),
        "parameters": version.parameters,
        "origin": version.origin,
        "warnings": warning_fields(version),
        "bytes": version.nbytes,
        "resident": entry is not None and entry.resident,
        "memory_bytes": None if entry is None else entry.ref.nbytes,
        "leases": 0 if entry is None else entry.leases,
        "pinned": entry is not None and entry.pinned,
        "quarantined": adapter.quarantined,
        "requests": 0 if counts is None else counts.requests,
        "hits": 0 if counts is None else counts.hits,
        "last_use": None if counts is None else counts.last_used,
        "versions": _versions(manifest),
        "aliases": dict(manifest.aliases),
    }


def _versions(manifest: AdapterManifest) -> list[dict[str, object]]:
    return [
        {"version": version.number, "digest": version.digest, "created": int(version.created), "bytes": version.nbytes}
        for version in manifest.versions
    ]
