"""The types of error replies, for the OpenAPI document and for replies that contain an error."""

from __future__ import annotations

from msgspec import Struct


class ErrorBody(Struct, frozen=True):
    message: str
    """What happened, and what to do."""
    type: str
    param: str | None
    """The field at fault, where one is."""
    code: str
    """Stable, for programs."""


class ErrorReply(Struct, frozen=True):
    """Every refusal and failure has this shape."""

    error: ErrorBody
