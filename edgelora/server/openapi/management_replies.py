"""What the management routes answer with: for the document, and for the tests of it. They write plain dicts."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from edgelora.server.openapi.replies import ErrorBody


class File(Struct, frozen=True):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str


class FileList(Struct, frozen=True):
    object: Literal["list"]
    data: list[File]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Deleted(Struct, frozen=True):
    id: str
    object: str
    deleted: bool


class FineTuningData(Struct, frozen=True):
    id: str
    name: str
    base_model: str
    type: str
    input_file_id: str | None
    created_at: int
    fine_tuned_model: str


class FineTuningObject(Struct, frozen=True):
    id: str
    object: Literal["fine_tuning"]
    data: FineTuningData


class FineTuningList(Struct, frozen=True):
    object: Literal["list"]
    data: list[FineTuningData]


class AdapterVersion(Struct, frozen=True):
    version: int
    digest: str
    created: int
    bytes: int


class Adapter(Struct, frozen=True):
    id: str
    object: Literal["adapter"]
    version: int
    digest: str
    created: int
    base: str
    rank: int
    alpha: str
    targets: list[str]
    parameters: int
    origin: str
    bytes: int
    resident: bool
    memory_bytes: int | None
    leases: int
    pinned: bool
    quarantined: str | None
    requests: int
    hits: int
    last_use: float | None
    versions: list[AdapterVersion]
    aliases: dict[str, int]


class AdapterList(Struct, frozen=True):
    object: Literal["list"]
    data: list[Adapter]


class DeletedAdapter(Deleted, frozen=True):
    versions: list[int]


class JobUpdate(Struct, frozen=True):
    status: str
    message: str
    timestamp: str


class JobArguments(Struct, frozen=True, rename="camel"):
    model_name: str
    model_source: str
    description: str


class InstalledVersion(Struct, frozen=True):
    id: str
    version: int
    digest: str


class InstallJob(Struct, frozen=True):
    id: str
    job_id: str
    object: Literal["job"]
    type: str
    status: str
    progress: str | None
    error: ErrorBody | None
    adapter: InstalledVersion | None
    args: JobArguments
    created_at: str
    updated_at: str
    status_updates: list[JobUpdate]


class JobList(Struct, frozen=True):
    object: Literal["list"]
    data: list[InstallJob]


class UploadJobData(Struct, frozen=True):
    job_id: str
    model_name: str
    model_id: str
    model_source: str


class UploadJob(Struct, frozen=True):
    data: UploadJobData
    message: str


class Weights(Struct, frozen=True):
    type: str


class ProjectModel(Struct, frozen=True, rename="camel"):
    id: str
    name: str
    organization_id: str
    project_id: str
    visibility: str
    weights: Weights
    base_model: str
    base_model_id: str
    description: str


class ProjectModelList(Struct, frozen=True):
    object: Literal["list"]
    data: list[ProjectModel]


class RemoteUpload(Struct, frozen=True, rename="camel"):
    id: str
    created_at: str
    updated_at: str
    model_id: str
    project_id: str
    remote_url: str
    status: str
    status_message: str


class RemoteUploadList(Struct, frozen=True):
    object: Literal["list"]
    data: list[RemoteUpload]


class UploadEvent(Struct, frozen=True, rename="camel"):
    id: str
    created_at: str
    level: str
    message: str
    type: str


class UploadEventList(Struct, frozen=True):
    object: Literal["list"]
    data: list[UploadEvent]


class Revision(Struct, frozen=True, rename="camel"):
    revision_id: str
