"""HTTP endpoints as values: the route, who may call it, what it takes, and what it returns.

The router, the gate and the OpenAPI document all read the same values, so they cannot disagree. Knows no API.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

JSON = "application/json"
TEXT = "text/plain"
EVENTS = "text/event-stream"

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

Handler = ASGIApp | Callable[[Request], Awaitable[Response]]
"""An ASGI application, or a starlette endpoint: a coroutine function of the request that returns the response."""

Inert = Mapping[str, tuple[object, ...]]
"""Fields that are known and not supported, each with the values that are accepted because they change nothing."""


class Access(StrEnum):
    """The callers that an endpoint accepts."""

    OPEN = "open"
    """Anyone. The reply holds nothing private."""
    KEY = "key"
    """Applications, with an API key where the server requires one."""
    FULL_KEY = "full_key"
    """The same, except keys that are restricted to some models: the reply describes every adapter."""
    SIGNED = "signed"
    """Anyone who knows the URL, which carries a signature that the handler checks."""
    MANAGEMENT = "management"
    """The management token, or a key made for management: the call changes what is installed, or reads files."""


class Media(StrEnum):
    """The content type that a request body must have."""

    JSON = "application/json"
    FORM = "multipart/form-data"
    """A web page can send a form across origins without a preflight, so only the Origin and Sec-Fetch-Site checks stop
    it."""
    BYTES = "application/octet-stream"
    """Any content type is accepted. Only for PUT, which no web page can send across origins without a preflight."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query string, for the OpenAPI document."""

    name: str
    schema: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    method: Method
    path: str
    """The route's template as starlette reads it, such as `/v1/models/{id:path}`."""
    handler: Handler
    access: Access
    operation_id: str
    summary: str
    _: KW_ONLY
    media: Media = Media.JSON
    body: Any = None
    """The type of the JSON body, or the schema of the form; None where the document describes no body."""
    inert: Inert = field(default_factory=dict)
    """Unsupported fields of the body, besides the ones that its type has."""
    body_optional: bool = False
    """True if the request may have no body, and then needs no content type."""
    query: tuple[Parameter, ...] = ()
    metered: bool = False
    """True if calls count against the limits of requests and tokens per minute."""
    reply: Any = None
    """The type of the JSON reply; None if the reply is text."""
    reply_media: str = JSON
    status: int = 200
    """The HTTP status of a successful reply."""
    streamed: bool = False
    """True if the reply can also be a stream of server-sent events."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The HTTP methods the route answers: HEAD comes with GET."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def documented_path(self) -> str:
        """The path as OpenAPI writes it, without starlette's converters: `/v1/models/{id}`."""
        return re.sub(r":\w+}", "}", self.path)
