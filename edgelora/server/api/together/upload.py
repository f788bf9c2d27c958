"""POST /v1/models, for Together's 1.x and 2.x clients: install an adapter from a repository or an uploaded file."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from edgelora.core.model_id import without_project
from edgelora.runtime.install.sources import Source
from edgelora.server.api.together.replies import UploadJob
from edgelora.server.http.endpoint import Access, Endpoint
from edgelora.server.http.validation import invalid, typed
from edgelora.server.management.hub_source import check_token, parse_repository
from edgelora.server.management.jobs import Status, Task
from edgelora.server.management.manager import Manager, in_thread, reply

Text = Annotated[str, Meta(min_length=1, max_length=512)]

KIND = "adapter_upload"
_STATUS_NAMES = {
    Status.QUEUED: "Queued",
    Status.RUNNING: "Running",
    Status.SUCCEEDED: "Complete",
    Status.FAILED: "Failed",
}
"""A job's status as Together's clients know it."""
_FILE_ID = re.compile(r"file-[0-9a-f]{24}")


class Upload(Struct, frozen=True):
    model_name: Text
    model_source: Text
    model_type: Text = "adapter"
    base_model: Text | None = None
    lora_model: Text | None = None
    hf_token: str | None = None
    description: Annotated[str, Meta(max_length=4096)] | None = None


class TogetherRoutes:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                "POST", "/v1/models", self.upload, Access.MANAGEMENT, "uploadModel",
                "Install an adapter through Together's API", body=Upload, reply=UploadJob,
            ),
        )  # fmt: skip

    async def upload(self, request: Request) -> Response:
        """Start installing an adapter; the job is at /v1/jobs/{id}. A project in `model_name` is ignored."""
        body = typed(await self._manager.read(request), Upload)
        if body.model_type != "adapter":
            raise invalid("model_type", "must be 'adapter': the base is chosen when the server is started")
        if body.lora_model is not None:
            raise invalid("lora_model", "is not supported: name the adapter in 'model_source'")
        self._manager.check_base(body.base_model, param="base_model")
        source = await in_thread(lambda: self._source(body))
        name, about = without_project(body.model_name), body.description or ""
        task = Task(KIND, name, body.model_source, about, status_names=_STATUS_NAMES)
        job, _ = self._manager.submit(task, source)
        data = {
            "job_id": job.id,
            "model_name": task.name,
            "model_id": task.name,
            "model_source": body.model_source,
        }
        return reply({"data": data, "message": "Processing model weights. Job created."})

    def _source(self, body: Upload) -> Source:
        if _FILE_ID.fullmatch(body.model_source):
            check_token(body.hf_token)
            return self._manager.uploaded(body.model_source, param="model_source")
        return parse_repository(body.model_source, token=body.hf_token, param="model_source")
