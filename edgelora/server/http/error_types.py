"""The types of error replies, for the OpenAPI document and for replies that contain an error."""

from __future__ import annotations

from msgspec import Struct


class ErrorBody(Struct, frozen=True):
    message: str
    """The problem and its remedy, for people."""
    type: str
    param: str | None
    """The field at fault, where one is."""
    code: str
    """Stable, for programs."""


class ErrorReply(Struct, frozen=True):
    """The shape of every error reply."""

    error: ErrorBody
