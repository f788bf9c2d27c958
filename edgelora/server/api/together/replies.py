"""Types of the replies of Together's endpoints, for the OpenAPI document and for tests. Handlers write plain dicts."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from edgelora.server.management.job_replies import AdapterNote


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
    warnings: list[AdapterNote]
