"""Reading a JSON body within limits of bytes, time, nesting, values and digits. Knows no schema."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence

from starlette.types import Receive

from edgelora.core.errors import UsageError
from edgelora.server.http.errors import BodyTimeout, BodyTooLarge, ClientGone

MAX_DEPTH = 64
MAX_VALUES = 1 << 18
"""Maximum number of values in all arrays and objects: parsed, each takes many times its bytes in the body."""
MAX_DIGITS = 64
"""Maximum number of digits of an integer: parsing long ones takes time, and no field needs them."""
DISCARD_BYTES = 64 << 20
"""Maximum bytes of a refused body that are read and thrown away, so that the client can read the reply."""
DISCARD_SECONDS = 2.0

# A string that never ends takes all that is left, so the scan is linear in every case.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""The beginning of an escaped surrogate, which may be half of a pair or stand alone."""


async def read_body(receive: Receive, *, declared: int | None, limit: int, seconds: float) -> bytes:
    """Return the request's body. `declared`: its Content-Length, if the request has one.

    Raises BodyTooLarge over `limit` bytes, BodyTimeout after `seconds`, ClientGone.
    """
    try:
        async with asyncio.timeout(seconds):
            if declared is None or declared <= limit:
                body = await _collect(receive, limit)
                if body is not None:
                    return body
    except TimeoutError:
        raise BodyTimeout("body_timeout", f"The body did not arrive within {seconds:g} s.", "Send it again.") from None
    await discard_body(receive)
    raise BodyTooLarge("body_too_large", f"The body is larger than {limit} bytes.", "Send a shorter one.")


def parse_object(body: bytes) -> dict[str, object]:
    """Parse a JSON object.

    Raises UsageError for invalid JSON or UTF-8, a repeated key, NaN, and too many levels, values or digits; also, with
    the field at fault, for half of a surrogate pair, which JSON can write and which is no text.
    """
    _check_shape(body)
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_counted,
        )
    except UnicodeDecodeError as error:
        raise _bad(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _bad(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    if not isinstance(value, dict):
        raise _bad("it must be an object, { ... }")
    if _HALF.search(body):
        _check_text(value, "")
    return value


async def _collect(receive: Receive, limit: int) -> bytes | None:
    """Return the body, or None as soon as it is larger than the limit."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def discard_body(receive: Receive) -> None:
    """Read the rest of a refused body, within limits, so that its client can read the reply."""
    read = 0
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while read < DISCARD_BYTES:
                message = await receive()
                read += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _check_shape(body: bytes) -> None:
    # Before parsing: the parser recurses, and its own limit is the interpreter's.
    bare = _STRING.sub(b"", body)
    brackets = bare.translate(None, _NOT_BRACKETS)
    if bare.count(b",") + len(brackets) // 2 >= MAX_VALUES:
        raise _bad(f"it holds more than {MAX_VALUES} values")
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise _bad(f"it is nested deeper than {MAX_DEPTH} levels")


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _bad("an object has the same key twice")
    return value


def _no_constant(name: str) -> float:
    raise _bad(f"{name} is not JSON")


def _counted(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _bad("it holds a number of too many digits")
    return int(text)


def _check_text(value: object, at: str) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            message = f"The field {at[:200]!r} has half of a surrogate pair, which is not a character."
            raise UsageError("invalid_value", message, param=at[:200])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_text(item, f"{at}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, at)
            _check_text(item, f"{at}.{name}" if at else name)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _bad("it holds a number too large for a double")
    return number


def _bad(why: str) -> UsageError:
    return UsageError("invalid_json", f"The server cannot read the body as a JSON object: {why}.")
