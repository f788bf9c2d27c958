"""Types of the replies of /v1/jobs, and of warnings about an adapter, for the OpenAPI document and for tests.

The handlers write plain dicts.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from edgelora.server.http.error_types import ErrorBody


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


class AdapterNote(Struct, frozen=True):
    """A reason to doubt that an adapter does what it was trained for."""

    code: str
    message: str


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
