"""GET /v1/jobs and /v1/jobs/{id}: the installations of adapters, in the shape of Together's jobs with more fields."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgelora.server.http.endpoint import Access, Endpoint
from edgelora.server.http.errors import error_reply
from edgelora.server.management.job_replies import InstallJob, JobList
from edgelora.server.management.jobs import Job, Jobs, Status
from edgelora.server.management.manager import reply


class JobRoutes:
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def endpoints(self) -> tuple[Endpoint, ...]:
        path, access = "/v1/jobs", Access.MANAGEMENT
        return (
            Endpoint(
                "GET", path, self.index, access, "listJobs", "List the installation jobs", reply=JobList
            ),
            Endpoint(
                "GET", f"{path}/{{id}}", self.retrieve, access, "retrieveJob",
                "Retrieve an installation job", reply=InstallJob,
            ),
        )  # fmt: skip

    async def index(self, _request: Request) -> Response:
        return reply({"object": "list", "data": [job_fields(job) for job in self._jobs.every()]})

    async def retrieve(self, request: Request) -> Response:
        return reply(job_fields(self._jobs.get(request.path_params["id"])))


def job_fields(job: Job) -> dict[str, object]:
    """Return a job as JSON fields. Times are in ISO 8601."""
    updates = [
        {"status": _status_name(job, update.status), "message": update.message, "timestamp": iso(update.at)}
        for update in job.updates
    ]
    return {
        "id": job.id,
        "job_id": job.id,
        "object": "job",
        "type": job.task.kind,
        "status": _status_name(job, job.status),
        "progress": job.progress or None,
        "error": error_fields(job),
        "adapter": _adapter(job),
        "args": {
            "modelName": job.task.name,
            "modelSource": job.task.source,
            "description": job.task.about,
        },
        "created_at": iso(job.created),
        "updated_at": iso(job.updated),
        "status_updates": updates,
    }


def _status_name(job: Job, status: Status) -> str:
    return job.task.status_names.get(status, status)


def error_fields(job: Job) -> object:
    """Return the error of a failed job as an OpenAI error object; None if it did not fail."""
    return None if job.error is None else msgspec.json.decode(error_reply(job.error).body)["error"]


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _adapter(job: Job) -> dict[str, object] | None:
    if job.installed is None:
        return None
    name, version = job.installed.manifest.name, job.installed.version
    return {"id": name, "version": version.number, "digest": version.digest}
