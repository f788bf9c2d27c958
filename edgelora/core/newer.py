"""Files of a newer edgelora, which are whole and must not be deleted."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgelora.core.errors import StorageError


def refuse_newer(data: bytes, error: Exception | None, path: Path, *, version: str = "schema", known: int = 1) -> None:
    """Raise StorageError(store_newer) if a file was written by a newer edgelora.

    It was if its field `version` is a number above `known`, or if it has a field that is not known here: fields are
    added, and never removed. `error`: the decoder's, which names an unknown field; None if it was decoded.
    """
    if "unknown field" in str(error) or _number(data, version) > known:
        raise StorageError(
            "store_newer",
            f"{path} was written by a newer version of edgelora.",
            "Update edgelora: pip install --upgrade edgelora. The file is whole; do not delete it.",
        ) from error


def _number(data: bytes, field: str) -> int:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    number = value.get(field) if isinstance(value, dict) else None
    return number if type(number) is int else 0
