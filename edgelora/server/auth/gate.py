"""The gate in front of an endpoint's handler: access, content type, rate limits.

It stands behind the router, so the rules that apply are those of the endpoint that answers; no path is read twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Self

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from edgelora.server.auth.caller import Call, Caller, RateLimits, set_call
from edgelora.server.auth.credentials import Credentials
from edgelora.server.auth.rate_limits import RateLimiter
from edgelora.server.http.endpoint import Endpoint, Media
from edgelora.server.http.errors import UnsupportedMedia
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.reply import add_headers


@dataclass(frozen=True, slots=True)
class Authenticators:
    """The credentials and the rate limits that all gates of a server share."""

    credentials: Credentials
    quota: RateLimiter
    clock: Callable[[], float]

    @classmethod
    def of(cls, options: ServerOptions) -> Self:
        """Raises StorageError where token or keys cannot be read."""
        shared = RateLimits(options.requests_per_minute, options.tokens_per_minute)
        return cls(Credentials(options), RateLimiter(shared, now=monotonic()), monotonic)


class Gate:
    def __init__(self, app: ASGIApp, endpoint: Endpoint, authenticators: Authenticators) -> None:
        """`app`: the endpoint's handler."""
        self.endpoint = endpoint
        self._app = app
        self._authenticators = authenticators

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint, headers = self.endpoint, Headers(scope=scope)
        caller = self._authenticators.credentials.admit(
            endpoint.access, authorization=headers.get("authorization"), x_api_key=headers.get("x-api-key")
        )
        if not endpoint.body_optional or _has_body(headers):
            check_content(scope["method"], headers, endpoint.media)
        set_call(Call(caller, lambda tokens: self._charge(caller, tokens)))
        if endpoint.metered:
            self._enter(caller, scope)
        await self._app(scope, receive, send)

    def _enter(self, caller: Caller, scope: Scope) -> None:
        now, quota = self._authenticators.clock(), self._authenticators.quota
        try:
            quota.enter(caller, now)
        finally:
            add_headers(scope, [(name.encode(), value.encode()) for name, value in quota.headers(caller, now).items()])

    def _charge(self, caller: Caller, tokens: int) -> None:
        self._authenticators.quota.charge(caller, tokens, self._authenticators.clock())


def check_content(method: str, headers: Headers, media: Media) -> None:
    """Raises UnsupportedMedia unless the body has the content type that its endpoint takes, in UTF-8, uncompressed."""
    # A form or text/plain can be posted across origins without a preflight; application/json cannot.
    if method not in ("POST", "PUT", "PATCH"):
        return
    if media is Media.BYTES:
        return
    kind, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.replace('"', "").strip().lower()
    plain = media is Media.FORM or charset in ("", "charset=utf-8")
    if kind.strip().lower() != media or not plain:
        raise UnsupportedMedia(
            "unsupported_media_type",
            f"The body must be {_MEDIA_NAMES[media]}.",
            f"Send 'Content-Type: {media}'{', in UTF-8' if media is Media.JSON else ''}.",
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("unsupported_media_type", "The body is compressed.", "Send it without Content-Encoding.")


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


_MEDIA_NAMES = {Media.JSON: "JSON", Media.FORM: "a form with a file"}
