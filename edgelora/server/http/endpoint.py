"""What a caller must bring to each route: one table by method and path. A route that no row means is never served.

OPEN asks for nothing and says nothing that is anybody's. KEY is what applications use: an API key where the server asks
for one. SIGNED addresses carry a secret of their own, which their route checks. TOKEN changes what is installed, or
sees files: the token of the installation, or a key made for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

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


Inert = Mapping[str, tuple[object, ...]]


READING = ("GET", "HEAD")


class Door(StrEnum):
    OPEN = "open"
    KEY = "key"
    SIGNED = "signed"
    TOKEN = "token"


class Media(StrEnum):
    """What the body of a POST, PUT or PATCH may be."""

    JSON = "application/json"
    FORM = "multipart/form-data"
    """A page can send it across origins unasked: only the check of Origin and Sec-Fetch-Site keeps those out."""
    ANY = "any"
    """For PUT alone: no page can send one across origins without a preflight."""


@dataclass(frozen=True, slots=True)
class Row:
    methods: tuple[str, ...]
    path: str
    """A route's template with `{}` for each parameter, without the prefix /openai; `*` is anything, slashes too."""
    door: Door
    media: Media = Media.JSON
    metered: bool = False
    """Whether it generates, and so counts against the limits of a minute."""
    whole: bool = False
    """Whether it tells of every adapter: not for a key that may use only some."""
    bodiless: bool = False
    """Whether it may come without a body, and then needs no content type: only where no page can send it unasked."""

    def means(self, method: str, path: str) -> bool:
        return (method in self.methods or "*" in self.methods) and fnmatchcase(path, self.path)


def _rows(
    door: Door, *paths: str, methods: tuple[str, ...] = ("*",), metered: bool = False, whole: bool = False
) -> list[Row]:
    return [Row(methods, path, door, metered=metered, whole=whole) for path in paths]


BODILESS = ("pin", "unpin", "warm", "rollback")
"""What is asked of an adapter without more words."""

TABLE: tuple[Row, ...] = (
    *_rows(Door.OPEN, "/", "/health", "/ready", "/openapi.json", methods=READING),
    *_rows(Door.OPEN, "/page.css", "/page.js", "/chat.js", "/icon.svg", methods=READING),
    *_rows(Door.KEY, "/v1/models", "/v1/models/{}", methods=READING),
    *_rows(Door.KEY, "/metrics", "/v1/status", "/v1/adapters", "/v1/adapters/{}", methods=READING, whole=True),
    *_rows(Door.KEY, "/v1/chat/completions", "/v1/completions", "/v1/responses", methods=("POST",), metered=True),
    *_rows(Door.KEY, "/v1/responses/*", "/v1/chat/completions/input_tokens", "/v1/embeddings"),
    *_rows(Door.KEY, "/tokenize", "/v1/tokenize", "/detokenize", "/v1/detokenize", methods=("POST",)),
    Row(("POST",), "/v1/files", Door.TOKEN, media=Media.FORM),
    Row(("PUT",), "/v2/uploads/*", Door.SIGNED, media=Media.ANY),
    *(Row(("POST",), f"/v1/adapters/{{}}/{verb}", Door.TOKEN, bodiless=True) for verb in BODILESS),
    *_rows(Door.TOKEN, "/v1/files*", "/v1/fine_tunings*", "/v1/adapters*", "/v1/jobs*", "/v2/projects*"),
    *_rows(Door.TOKEN, "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/models", "/v1/models/{}"),
)
"""The first row that means a route holds for it."""

_PARAMETER = re.compile(r"\{[^}]*\}")


def row_of(method: str, template: str) -> Row | None:
    """The row for one method of a route, by the template it was made with."""
    path = _PARAMETER.sub("{}", template).removeprefix("/openai")
    return next((row for row in TABLE if row.means(method, path)), None)


def rows_of(methods: Iterable[str], template: str) -> dict[str, Row]:
    """The rows for every method of a route. Raises LookupError where one has none: the table was forgotten."""
    found = {method: row_of(method, template) for method in methods}
    if forgotten := sorted(method for method, row in found.items() if row is None):
        raise LookupError(f"doors.TABLE says nothing of {' and '.join(forgotten)} {template}")
    return {method: row for method, row in found.items() if row is not None}
