"""The state and the steps that the management endpoints share: adapter registry, uploads, and jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from edgelora.core.errors import EdgeloraError, UsageError
from edgelora.core.progress import Progress
from edgelora.runtime.adapter_registry import AdapterRegistry
from edgelora.runtime.install.sources import HubSource, InstallResult, Source, UploadSource
from edgelora.runtime.interface import Runtime
from edgelora.server.http.errors import internal_error
from edgelora.server.http.json_body import parse_object
from edgelora.server.http.json_route import read_json
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.upload_body import UploadReceiver
from edgelora.server.management.jobs import Job, Jobs, Lane, Task
from edgelora.store.adapters.manifest import Version
from edgelora.store.bases.names import goes_by
from edgelora.store.uploads import Uploads

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Manager:
    """Installs and removes adapters for the management endpoints. A server has one."""

    registry: AdapterRegistry
    options: ServerOptions
    uploads: Uploads
    reception: UploadReceiver
    jobs: Jobs

    @classmethod
    def of(cls, runtime: Runtime, options: ServerOptions) -> Manager:
        settings = runtime.registry.library.settings
        root = settings.directories.data / "uploads"
        uploads = Uploads(root, budget_bytes=settings.upload_disk_bytes)
        return cls(runtime.registry, options, uploads, UploadReceiver(uploads), Jobs())

    async def read(self, request: Request) -> dict[str, object]:
        """Return the request's JSON object. Raises UsageError, BodyTooLarge, BodyTimeout, ClientGone."""
        raw = await read_json(request.scope, request.receive, self.options)
        return await to_thread.run_sync(parse_object, raw)

    def check_base(self, name: str | None, *, param: str) -> None:
        """Raises UsageError unless `name` is one of the resident base's, or None."""
        base = self.registry.base
        if name and not goes_by(base, name):
            message = f"{name!r} is not the base of this server, which is {base.name}."
            raise UsageError("other_base", message, f"Write {base.name!r}, or serve that base.", param=param)

    def submit(self, task: Task, source: Source) -> tuple[Job, Future[Job]]:
        """Start a job that installs `source` as `task.name`. Raises UsageError for a bad name, or Busy."""
        self.registry.library.store.check_name(task.name)

        def work(progress: Progress) -> InstallResult:
            return self.registry.install(source, name=task.name, uploads=self.uploads, progress=progress)

        return self.jobs.submit(task, work, lane=Lane.HUB if isinstance(source, HubSource) else Lane.LOCAL)

    async def install(self, task: Task, source: Source) -> InstallResult:
        """Install `source` as `task.name` and wait for it. Raises the job's error."""
        _, done = self.submit(task, source)
        job = await asyncio.wrap_future(done)
        if job.installed is None:
            raise job.error or internal_error()
        return job.installed

    def uploaded(self, file_id: str, *, param: str) -> UploadSource:
        """Return an uploaded file. Raises NotFound with `param`."""
        try:
            return UploadSource(self.uploads.get(file_id))
        except EdgeloraError as error:
            error.param = param
            raise


async def in_thread(work: Callable[[], T]) -> T:
    return await to_thread.run_sync(work)


def reply(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def warning_fields(version: Version) -> list[dict[str, str]]:
    """Return the warnings about an installed version as JSON fields."""
    return [{"code": warning.code, "message": warning.message} for warning in version.warnings]
