"""Turning an exception into an OpenAI error object. Pure.

Also the errors that only HTTP has. They extend the project's tree, so `status` still comes from the class.

    UsageError
    |-- Unauthorized       401   no key, or the wrong one
    |-- Forbidden          403   a Host, Origin or Sec-Fetch-Site that is not allowed, or a key that does not suffice
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
"""Codes of errors below 500 that clients are told not to retry."""
TRY_AGAIN_SECONDS = 1
"""Seconds in `Retry-After` when the runtime does not know how long the wait will be."""


class ClientGone(Exception):
    """The client disconnected. Outside the project's tree of errors, because no client ever reads it."""


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
    """Return the reply to a request that raised `error`. An error outside the project's tree is an internal error."""
    public = _public(error)
    return ErrorReply(public.status, _headers(public), _encoded(public))


def error_frame(error: Exception) -> bytes:
    """Return the same JSON for the middle of a stream, whose status has been sent already."""
    return _encoded(_public(error))


def error_message(error: Exception) -> str:
    """Return the message that a client gets for an exception, without code and status."""
    return str(_public(error))


def internal_error() -> EdgeloraError:
    return EdgeloraError("internal_error", "The server failed to handle the request.", "Its log says why.")


def _public(error: Exception) -> EdgeloraError:
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
