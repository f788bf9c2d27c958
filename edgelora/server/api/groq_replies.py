"""Types of the replies of /v1/fine_tunings, for the OpenAPI document and for tests; the handlers write plain dicts."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from edgelora.server.management.job_replies import AdapterNote


class FineTuningData(Struct, frozen=True):
    id: str
    name: str
    base_model: str
    type: str
    input_file_id: str | None
    created_at: int
    fine_tuned_model: str
    warnings: list[AdapterNote]


class FineTuningObject(Struct, frozen=True):
    id: str
    object: Literal["fine_tuning"]
    data: FineTuningData


class FineTuningList(Struct, frozen=True):
    object: Literal["list"]
    data: list[FineTuningData]
