"""Types of the replies of /v1/adapters, for the OpenAPI document and for tests; the handlers write plain dicts."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from edgelora.server.api.openai.replies import Deleted
from edgelora.server.management.job_replies import AdapterNote


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
    warnings: list[AdapterNote]
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
