"""Strict reading of small files from outside: regular files only, capped, JSON without duplicate keys.

Owns no format. Every function takes the error class to raise, because adapters and bases are read by the same code.
Symbolic links are followed: the Hugging Face cache is made of them.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgelora_models.errors import EdgeloraError, StorageError

ErrorClass = type[EdgeloraError]

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""A written-out half of a surrogate pair; without its other half the text could not be written anywhere."""

_FETCH_AGAIN = "Fetch or copy it again from where it was made."
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The first bytes of the small text file that git has in place of a large one until git-lfs fetches that."""


def regular_size(path: Path, *, error: ErrorClass) -> int:
    """Size in bytes of a regular file. Raises `error` where it is missing or something else; StorageError otherwise."""
    try:
        info = path.stat()
    except FileNotFoundError:
        raise error("file_missing", f"There is no file {path.name} in {path.parent}.", "Check the path.") from None
    except (OSError, ValueError) as e:
        raise unreadable(path, e) from e
    if not stat.S_ISREG(info.st_mode):
        raise error("not_a_file", f"{path} is not a regular file.", "Give the file itself.")
    return info.st_size


def unreadable(path: Path, e: Exception) -> StorageError:
    """Return the error for an operating system's refusal to read."""
    reason = (e.strerror if isinstance(e, OSError) else None) or str(e)
    return StorageError("unreadable", f"{path} cannot be read: {reason}.", "Check its permissions and the disk.")


def refuse_pointer(start: bytes, name: str, *, error: ErrorClass) -> None:
    """Raise `error` if a file that begins with `start` is a git-lfs pointer and not the file itself."""
    if start.startswith(LFS_POINTER):
        message = f"{name} is a git-lfs pointer: the file itself was never downloaded."
        raise error("git_lfs_pointer", message, "In the folder it was cloned into, run: git lfs pull")


def read_bytes(path: Path, *, limit: int, error: ErrorClass) -> bytes:
    """Read the whole file, at most `limit` bytes."""
    size = regular_size(path, error=error)
    if size > limit:
        raise error("file_too_large", f"{path.name} has {size} bytes; at most {limit} are read.", "Check the file.")
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as e:
        raise unreadable(path, e) from e


def read_text(path: Path, *, limit: int, error: ErrorClass) -> str:
    """Read the whole file as UTF-8, line ends as they stand."""
    return _decode(read_bytes(path, limit=limit, error=error), path.name, error)


def read_json(path: Path, *, limit: int, error: ErrorClass) -> dict[str, Any]:
    """Read a JSON object from a file of at most `limit` bytes; see parse_object.

    A byte order mark, which Windows editors put in front, is no part of it.
    """
    data = read_bytes(path, limit=limit, error=error)
    refuse_pointer(data, path.name, error=error)
    return parse_object(data.removeprefix(_BYTE_ORDER_MARK), where=path.name, error=error)


def parse_object(data: bytes, *, where: str, error: ErrorClass) -> dict[str, Any]:
    """Parse a JSON object in UTF-8. `where` names the source in messages.

    Refused: duplicate keys at any depth, NaN and Infinity, lone surrogates, too deep nesting, other JSON types.
    """
    text = _decode(data, where, error)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise error("bad_json", f"{where} is nested too deeply.", _FETCH_AGAIN) from None
    except ValueError as e:
        raise error("bad_json", f"{where} is not valid JSON: {e}.", _FETCH_AGAIN) from None
    if not isinstance(value, dict):
        raise error("bad_json", f"{where} must be a JSON object.", _FETCH_AGAIN)
    return value


def quoted(text: str, limit: int = 160) -> str:
    """Format a name from outside for a message: quoted, cut, control characters escaped."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


def _decode(data: bytes, where: str, error: ErrorClass) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise error("bad_text", f"{where} is not UTF-8 text (byte {e.start}).", _FETCH_AGAIN) from None


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {quoted(key)} stands twice")
        result[key] = value
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
