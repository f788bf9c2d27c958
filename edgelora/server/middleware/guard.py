"""The guard before the router: checks sizes, Host and Origin, and answers CORS preflights. Pure ASGI.

It checks the sizes of URL and headers first, then Host, then Origin and Sec-Fetch-Site. The checks themselves are in
http/origins.py. Keys, content types and rate limits depend on the endpoint and are checked by its gate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edgelora.server.http.errors import Forbidden, HeadersTooMany, UrlTooLong
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.origins import LOOPBACK_HOSTS, HostList, OriginList, own_origin, site_admitted
from edgelora.server.http.reply import add_headers, send_reply
from edgelora.server.http.sockets import is_loopback

MAX_URL_BYTES = 8 << 10
"""Maximum size of path and query as they were sent."""
MAX_HEADERS = 100

_PREFLIGHT_SECONDS = b"600"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,64}")
"""A header's name as RFC 9110 has it, in small letters."""
_READABLE = b"x-request-id, retry-after, " + b", ".join(
    b"x-ratelimit-%s-%s" % (field, kind)
    for kind in (b"requests", b"tokens")
    for field in (b"limit", b"remaining", b"reset")
)
"""Response headers that a page may read."""


@dataclass(frozen=True, slots=True)
class OriginRules:
    """The allowed hosts and origins, read once from the options."""

    hosts: HostList
    origins: OriginList

    @classmethod
    def of(cls, options: ServerOptions) -> Self:
        """Raises UsageError for an origin that cannot be allowed."""
        own = () if options.host in ("0.0.0.0", "::", "") else (options.host,)
        names = (*LOOPBACK_HOSTS, *own, *options.allow_hosts)
        hosts = HostList(names, any_address=not is_loopback(options.host))
        return cls(hosts, OriginList(options.allow_origins))


class Guard:
    def __init__(self, app: ASGIApp, rules: OriginRules, routes: Sequence[Route]) -> None:
        """`routes`: for the methods that a preflight is answered with."""
        self._app = app
        self._rules = rules
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _check_sizes(scope)
        headers = Headers(scope=scope)
        host = self._check_host(headers)
        origin = self._check_origin(headers, host)
        if origin is not None:
            add_headers(scope, _cors(origin))
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await send_reply(send, 204, _preflight(headers, self._methods(scope["path"])), b"")
                return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> str:
        given = headers.getlist("host")
        if len(given) != 1 or not self._rules.hosts.admits(given[0]):
            raise Forbidden(
                "host_not_allowed",
                "The Host header names a host that this server does not serve.",
                "Call it as 127.0.0.1 or localhost, or start it with --allow-host NAME.",
            )
        return given[0]

    def _check_origin(self, headers: Headers, host: str) -> str | None:
        """Return the allowed foreign Origin, or None if the request has none or comes from a page of this server."""
        origins = headers.getlist("origin")
        if len(origins) == 1 and origins[0] in self._rules.origins:
            return origins[0]
        foreign = [origin for origin in origins if len(origins) > 1 or not own_origin(origin, host)]
        if foreign or not all(site_admitted(site) for site in headers.getlist("sec-fetch-site")):
            raise Forbidden(
                "origin_not_allowed",
                "A page of another origin may not call this server.",
                "If the page is yours, start the server with --allow-origin ORIGIN.",
            )
        return None

    def _methods(self, path: str) -> set[str]:
        methods = {method for route in self._routes if route.path_regex.match(path) for method in route.methods or ()}
        return methods - {"HEAD"} or {"GET", "POST"}


def _check_sizes(scope: Scope) -> None:
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URL_BYTES:
        raise UrlTooLong("url_too_long", f"The URL is longer than {MAX_URL_BYTES} bytes.", "Send a shorter one.")
    if len(scope["headers"]) > MAX_HEADERS:
        raise HeadersTooMany("too_many_headers", f"The request has more than {MAX_HEADERS} headers.", "Send fewer.")


def _cors(origin: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _READABLE),
        (b"vary", b"Origin"),
    )


def _preflight(headers: Headers, methods: Iterable[str]) -> tuple[tuple[bytes, bytes], ...]:
    names = headers.get("access-control-request-headers", "").split(",", MAX_HEADERS)[:MAX_HEADERS]
    requested = [name.strip().lower() for name in names]
    return (
        (b"access-control-allow-methods", _join(sorted(methods))),
        # The origin was allowed, so its pages may send what their libraries send; MAX_HEADERS bounds the list.
        (b"access-control-allow-headers", _join(name for name in requested if _HEADER_NAME.fullmatch(name))),
        (b"access-control-max-age", _PREFLIGHT_SECONDS),
    )


def _join(names: Iterable[str]) -> bytes:
    return ", ".join(names).encode("ascii")
