"""One operation of the API as the document tells it. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgelora.server.schemas import Inert

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the query."""

    name: str
    schema: Mapping[str, Any]
    about: str


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    """As the document writes it, `/v1/models/{id}`; what stands under /v1 stands under /openai/v1 too."""
    name: str
    """The operationId."""
    summary: str
    body: Any = None
    """The type of its JSON body, or none."""
    inert: Inert = field(default_factory=dict)
    """Fields beside the body's own that are known and not supported, each with the values that ask for nothing."""
    form: Mapping[str, Any] | None = None
    """The schema of a multipart body."""
    raw: str | None = None
    """The media type of a body that is bytes."""
    reply: Any = None
    """The type of the JSON reply; None: a text."""
    media: str = JSON
    """Of the reply."""
    status: int = 200
    streamed: bool = False
    """Whether the reply may also be server-sent events."""
    query: tuple[Parameter, ...] = ()
