"""/v2/projects/{project}/models, for Together's 3.x client: a model is registered, gets its files, and is served.

Any project name is accepted and means the same, because adapters belong to this machine. A registered model without
files is in memory only; with its files it is an installed adapter. Its id depends only on its name.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from edgelora.core.errors import Busy, NotFound
from edgelora.core.model_id import without_project
from edgelora.server.api.together.replies import (
    ProjectModel,
    ProjectModelList,
    RemoteUpload,
    RemoteUploadList,
    UploadEventList,
)
from edgelora.server.http.endpoint import Access, Endpoint
from edgelora.server.http.validation import invalid, typed
from edgelora.server.management.hub_source import parse_repository
from edgelora.server.management.job_routes import iso
from edgelora.server.management.jobs import Job, Status, Task
from edgelora.server.management.manager import Manager, in_thread, reply

KIND = "remote_upload"
MODELS_PATH = "/v2/projects/{project}/models"
MAX_REGISTERED = 256
"""Maximum number of registered models without files."""

Text = Annotated[str, Meta(min_length=1, max_length=512)]

_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_STATUS_NAMES = {
    Status.QUEUED: "REMOTE_UPLOAD_STATUS_PENDING",
    Status.RUNNING: "REMOTE_UPLOAD_STATUS_RUNNING",
    Status.SUCCEEDED: "REMOTE_UPLOAD_STATUS_SUCCEEDED",
    Status.FAILED: "REMOTE_UPLOAD_STATUS_FAILED",
}


class RegisterBody(Struct, frozen=True, rename="camel"):
    base_model_id: Text
    name: Text
    type: Literal["adapter", "adapters"]
    description: Annotated[str, Meta(max_length=4096)] | None = None


class ImportBody(Struct, frozen=True, rename="camel"):
    model_id: Text
    remote_url: Text
    token: str | None = None


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    name: str
    description: str = ""
    installed: bool = False

    @property
    def id(self) -> str:
        return model_id(self.name)


class RegisteredModels:
    """The registered models that have no files yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}
        """Descriptions by name, oldest first."""

    def add(self, name: str, description: str) -> None:
        """Register a model. Raises Busy if too many have no files."""
        with self._lock:
            if name not in self._names and len(self._names) >= MAX_REGISTERED:
                raise Busy("too_many_models", f"{MAX_REGISTERED} models have no files yet.", "Upload or delete some.")
            self._names[name] = description

    def pop(self, name: str) -> bool:
        with self._lock:
            return self._names.pop(name, None) is not None

    def waiting(self, installed: Iterable[str]) -> dict[str, str]:
        """Return the descriptions by name, after removing the models that are installed now."""
        with self._lock:
            for name in installed:
                self._names.pop(name, None)
            return dict(self._names)


class ProjectsRoutes:
    def __init__(self, manager: Manager, register: RegisteredModels) -> None:
        self._manager = manager
        self._register = register

    def endpoints(self) -> tuple[Endpoint, ...]:
        # The router takes the first path that matches, and `{id}` matches `uploads`.
        return (*self._upload_endpoints(), *self._model_endpoints())

    def _model_endpoints(self) -> tuple[Endpoint, ...]:
        path, access = MODELS_PATH, Access.MANAGEMENT
        return (
            Endpoint(
                "GET", path, self.index, access, "listProjectModels", "List the adapters through Together's API",
                reply=ProjectModelList,
            ),
            Endpoint(
                "POST", path, self.create, access, "createProjectModel", "Register a model",
                body=RegisterBody, reply=ProjectModel,
            ),
            Endpoint(
                "GET", f"{path}/{{id}}", self.retrieve, access, "retrieveProjectModel",
                "Retrieve a registered or installed model",
                reply=ProjectModel,
            ),
            Endpoint(
                "DELETE", f"{path}/{{id}}", self.delete, access, "deleteProjectModel", "Delete a model", reply=dict
            ),
        )  # fmt: skip

    def _upload_endpoints(self) -> tuple[Endpoint, ...]:
        path, access = f"{MODELS_PATH}/uploads", Access.MANAGEMENT
        return (
            Endpoint(
                "GET", path, self.jobs, access, "listRemoteUploads",
                "List the imports from repositories", reply=RemoteUploadList,
            ),
            Endpoint(
                "POST", path, self.fetch, access, "createRemoteUpload", "Import a model's files from a repository",
                body=ImportBody, reply=RemoteUpload,
            ),
            Endpoint(
                "GET", f"{path}/{{id}}", self.job, access, "retrieveRemoteUpload",
                "Retrieve an import", reply=RemoteUpload
            ),
            Endpoint(
                "GET", f"{path}/{{id}}/events", self.events, access, "listRemoteUploadEvents",
                "List the events of an import",
                reply=UploadEventList,
            ),
        )  # fmt: skip

    async def create(self, request: Request) -> Response:
        """Register a name for the next upload. If it is installed already, the upload becomes its next version."""
        project = check_project(request)
        body = typed(await self._manager.read(request), RegisterBody)
        self._manager.check_base(body.base_model_id, param="baseModelId")
        name = self._manager.registry.library.store.check_name(without_project(body.name))
        self._register.add(name, body.description or "")
        return reply(self._fields(RegisteredModel(name, body.description or ""), project))

    async def index(self, request: Request) -> Response:
        project = check_project(request)
        models = await in_thread(self._models)
        return reply({"object": "list", "data": [self._fields(model, project) for model in models]})

    async def retrieve(self, request: Request) -> Response:
        project = check_project(request)
        model = await in_thread(lambda: self.find(request.path_params["id"]))
        return reply(self._fields(model, project))

    async def delete(self, request: Request) -> Response:
        check_project(request)

        def remove() -> None:
            model = self.find(request.path_params["id"])
            self._register.pop(model.name)
            if model.installed:
                self._manager.registry.remove(model.name)

        await in_thread(remove)
        return reply({})

    async def fetch(self, request: Request) -> Response:
        """Start installing a repository's adapter as a registered model."""
        project = check_project(request)
        body = typed(await self._manager.read(request), ImportBody)
        model = await in_thread(lambda: self.find(body.model_id, param="modelId"))
        source = parse_repository(body.remote_url, token=body.token, param="remoteUrl")
        job, _ = self._manager.submit(Task(KIND, model.name, body.remote_url, group=model.id), source)
        return reply(_job_fields(job, project))

    async def jobs(self, request: Request) -> Response:
        project = check_project(request)
        jobs = [job for job in self._manager.jobs.every() if job.task.kind == KIND]
        return reply({"object": "list", "data": [_job_fields(job, project) for job in jobs]})

    async def job(self, request: Request) -> Response:
        return reply(_job_fields(self._job(request), check_project(request)))

    async def events(self, request: Request) -> Response:
        check_project(request)
        job = self._job(request)
        return reply({"object": "list", "data": _events(job)})

    def find(self, id_or_name: str, *, param: str = "id") -> RegisteredModel:
        """Return a model by its id or its name. Raises NotFound."""
        for model in self._models():
            if id_or_name in (model.id, model.name):
                return model
        error = NotFound("model", id_or_name, [model.name for model in self._models()], "Register it first.")
        error.param = param
        raise error

    def _job(self, request: Request) -> Job:
        """Return an import by its id. Raises NotFound."""
        job = self._manager.jobs.get(request.path_params["id"])
        if job.task.kind != KIND:
            raise NotFound("job", job.id)
        return job

    def _models(self) -> list[RegisteredModel]:
        installed = [adapter.manifest.name for adapter in self._manager.registry.latest()]
        waiting = self._register.waiting(installed)
        names = sorted({*installed, *waiting})
        return [RegisteredModel(name, waiting.get(name, ""), name in installed) for name in names]

    def _fields(self, model: RegisteredModel, project: str) -> dict[str, object]:
        base = self._manager.registry.base.name
        return {
            "id": model.id,
            "name": f"{project}/{model.name}",
            "organizationId": "local",
            "projectId": project,
            "visibility": "VISIBILITY_PRIVATE",
            "weights": {"type": "WEIGHTS_TYPE_ADAPTER"},
            "baseModel": f"projects/{project}/models/{base}",
            "baseModelId": base,
            "description": model.description,
        }


def check_project(request: Request) -> str:
    """Return the project in the path. Raises UsageError if it is not a valid name."""
    project = str(request.path_params["project"])
    if not _PROJECT.fullmatch(project):
        raise invalid("project", "must be a name of letters, digits, '.', '_' and '-'")
    return project


def model_id(name: str) -> str:
    """Return the id of the registered or installed model of that name."""
    return f"ml_{hashlib.sha256(name.encode()).hexdigest()[:24]}"


def _job_fields(job: Job, project: str) -> dict[str, object]:
    return {
        "id": job.id,
        "createdAt": iso(job.created),
        "updatedAt": iso(job.updated),
        "modelId": job.task.group,
        "projectId": project,
        "remoteUrl": job.task.source,
        "status": _STATUS_NAMES[job.status],
        "statusMessage": job.progress or job.updates[-1].message,
    }


def _events(job: Job) -> list[dict[str, object]]:
    return [
        {
            "id": f"{job.id}-{number}",
            "createdAt": iso(update.at),
            "level": "LEVEL_ERROR" if update.status is Status.FAILED else "LEVEL_INFO",
            "message": update.message,
            "type": f"import.{update.status}",
        }
        for number, update in enumerate(job.updates)
    ]
