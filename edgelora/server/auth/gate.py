"""The gate in front of one route: who comes, with what kind of body, how often. The router has found the route before.

So what a request must bring hangs on the route that will answer it, never on a second reading of its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Self

from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edgelora.server.auth.caller import Call, Caller, RateLimits, set_call
from edgelora.server.auth.credentials import Credentials
from edgelora.server.auth.rate_limits import RateLimiter
from edgelora.server.http.endpoint import Media, Row, rows_of
from edgelora.server.http.errors import Forbidden, UnsupportedMedia
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.reply import add_headers


@dataclass(frozen=True, slots=True)
class Authenticators:
    """What all gates of a server share."""

    credentials: Credentials
    quota: RateLimiter
    clock: Callable[[], float]

    @classmethod
    def of(cls, options: ServerOptions) -> Self:
        """Raises StorageError where token or keys cannot be read."""
        shared = RateLimits(options.requests_per_minute, options.tokens_per_minute)
        return cls(Credentials(options), RateLimiter(shared, now=monotonic()), monotonic)


class Gate:
    def __init__(self, app: ASGIApp, rows: Mapping[str, Row], authenticators: Authenticators) -> None:
        """`rows`: by method, for all that the route has."""
        self._app = app
        self._rows = rows
        self._authenticators = authenticators

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        row = self._rows[scope["method"]]
        headers = Headers(scope=scope)
        keys = headers.get("authorization"), headers.get("x-api-key")
        who = self._authenticators.credentials.admit(row.door, authorization=keys[0], x_api_key=keys[1])
        if row.whole and not who.sees_all:
            raise Forbidden(
                "whole_view_not_allowed",
                f"This tells of every adapter, and the key {who.name!r} may use only some.",
                "GET /v1/models lists what it may use.",
            )
        if not row.bodiless or _has_body(headers):
            check_content(scope["method"], headers, row.media)
        set_call(Call(who, lambda tokens: self._charge(who, tokens)))
        if row.metered:
            self._enter(who, scope)
        await self._app(scope, receive, send)

    def _enter(self, who: Caller, scope: Scope) -> None:
        now, quota = self._authenticators.clock(), self._authenticators.quota
        try:
            quota.enter(who, now)
        finally:
            add_headers(scope, [(name.encode(), value.encode()) for name, value in quota.headers(who, now).items()])

    def _charge(self, who: Caller, tokens: int) -> None:
        self._authenticators.quota.charge(who, tokens, self._authenticators.clock())


def gated(routes: Iterable[Route], authenticators: Authenticators) -> list[Route]:
    """The same routes, each behind its gate. Raises LookupError for one that the table of doors does not know."""
    found = list(routes)
    for route in found:
        route.app = Gate(route.app, rows_of(route.methods or (), route.path), authenticators)
    return found


def check_content(method: str, headers: Headers, media: Media) -> None:
    """Raises UnsupportedMedia unless the body is of the kind its route takes, and plain."""
    # A form or text/plain can be posted across origins without a preflight; application/json cannot.
    if method not in ("POST", "PUT", "PATCH"):
        return
    if media is Media.ANY:
        return
    kind, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.replace('"', "").strip().lower()
    plain = media is Media.FORM or charset in ("", "charset=utf-8")
    if kind.strip().lower() != media or not plain:
        raise UnsupportedMedia(
            "unsupported_media_type",
            f"The body must be {_WORDS[media]}.",
            f"Send 'Content-Type: {media}'{', in UTF-8' if media is Media.JSON else ''}.",
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("unsupported_media_type", "The body is compressed.", "Send it without Content-Encoding.")


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


_WORDS = {Media.JSON: "JSON", Media.FORM: "a form with a file"}
