"""From an exception to an OpenAI error object: the one place where that is decided. Pure.

Also the few errors only HTTP has. They extend the project's tree, so `status` still comes from the class.

    UsageError
    |-- Unauthorized       401   no key, or the wrong one
    |-- Forbidden          403   a Host, Origin or Sec-Fetch-Site that is not let in; what a key may not do
    |-- UnknownRoute       404
    |-- MethodNotAllowed   405
    |-- BodyTimeout        408
    |-- BodyTooLarge       413
    |-- UrlTooLong         414
    |-- UnsupportedMedia   415
    |-- HeadersTooMany     431
    `-- NotOffered         501   a route of the API that this server does not serve
    EdgeloraError
    `-- DeadlineExceeded   504   it took longer than it may
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgelora.core.errors import Busy, Cancelled, EdgeloraError, Unavailable, UsageError

_FINAL = frozenset({"unsupported_schema"})
"""Codes below 500 that say themselves that repeating is of no use."""
TRY_AGAIN_SECONDS = 1
"""Told to a refused client when the runtime does not know how long the wait will be."""


class ClientGone(Exception):
    """The client hung up: there is nobody to answer. Outside the tree, because nobody is ever told."""


class Unauthorized(UsageError):
    status = 401


class Forbidden(UsageError):
    status = 403


class UnknownRoute(UsageError):
    status = 404


class MethodNotAllowed(UsageError):
    status = 405


class BodyTimeout(UsageError):
    status = 408


class BodyTooLarge(UsageError):
    status = 413


class UrlTooLong(UsageError):
    status = 414


class UnsupportedMedia(UsageError):
    status = 415


class HeadersTooMany(UsageError):
    status = 431


class NotOffered(UsageError):
    status = 501


class DeadlineExceeded(EdgeloraError):
    status = 504


@dataclass(frozen=True, slots=True)
class ErrorReply:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    """`{"error": {"message", "type", "param", "code"}}`, the shape the clients read."""


def error_reply(error: Exception) -> ErrorReply:
    """How an exception is told to the client. What is not of the project's tree is told as an internal error."""
    known = _known(error)
    return ErrorReply(known.status, _headers(known), _encoded(known))


def error_frame(error: Exception) -> bytes:
    """The same JSON for the middle of a stream, where the status has long been sent."""
    return _encoded(_known(error))


def told(error: Exception) -> str:
    """What the client is told of an exception, without code and status."""
    return str(_known(error))


def internal_error() -> EdgeloraError:
    return EdgeloraError("internal_error", "The server failed to handle the request.", "Its log says why.")


def _known(error: Exception) -> EdgeloraError:
    if isinstance(error, Cancelled):
        # The client is still there, so it was not the one who cancelled: the runtime is ending.
        return Unavailable("cancelled", "The server ended the request.", "Send it again once the server is back.")
    return error if isinstance(error, EdgeloraError) else internal_error()


def _encoded(error: EdgeloraError) -> bytes:
    # The command line knows these classes when it shows its help, which must not wait for this.
    import msgspec

    return msgspec.json.encode({"error": _fields(error)})


def _fields(error: EdgeloraError) -> dict[str, str | None]:
    return {"message": str(error), "type": _type(error.status), "param": error.param, "code": error.code}


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _headers(error: EdgeloraError) -> tuple[tuple[bytes, bytes], ...]:
    if isinstance(error, Busy):
        seconds = max(TRY_AGAIN_SECONDS, math.ceil(error.retry_after or 0))
        return ((b"retry-after", str(seconds).encode()),)
    if isinstance(error, Unauthorized):
        return ((b"www-authenticate", b"Bearer"),)
    # Clients repeat every 5xx of their own accord. A missing base or a full disk does not get better by repeating; what
    # crashed the engine before may well have been another's request.
    final = (error.status >= 500 and error.code != "engine_crash") or error.code in _FINAL
    return ((b"x-should-retry", b"false"),) if final else ()
