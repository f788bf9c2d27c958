"""The guard before every route: a pure-ASGI middleware. Owns the order of the checks and the CORS headers.

Host, then Origin and Sec-Fetch-Site, then the preflight answer, then the key, then the content type. The questions
themselves are in access.py; the size of bodies is limits.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from edgelora.server.access import LOOPBACK_HOSTS, HostList, OriginList, key_admitted, own_origin, site_admitted
from edgelora.server.binding import is_loopback
from edgelora.server.boundary import add_headers, send_reply
from edgelora.server.errors import Forbidden, Unauthorized, UnsupportedMedia
from edgelora.server.options import ServerOptions
from edgelora.server.page import PAGE_PATHS

KEYLESS_PATHS = frozenset({"/health", "/ready", *PAGE_PATHS})
"""Probes carry no key, and say nothing but that the server is there; nor can a browser that opens the page."""

_PREFLIGHT_SECONDS = b"600"
_REQUEST_HEADERS = re.compile(r"authorization|content-type|x-api-key|x-stainless-[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Rules:
    """Who is let in: read from the options once, before anything is served."""

    hosts: HostList
    origins: OriginList
    api_key: str | None

    @classmethod
    def of(cls, options: ServerOptions) -> Self:
        """Raises UsageError for an origin that cannot be allowed."""
        own = () if options.host in ("0.0.0.0", "::", "") else (options.host,)
        names = (*LOOPBACK_HOSTS, *own, *options.allow_hosts)
        hosts = HostList(names, any_address=not is_loopback(options.host))
        return cls(hosts, OriginList(options.allow_origins), options.api_key)


class Guard:
    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = self._check_host(headers)
        origin = self._check_origin(headers, host)
        if origin is not None:
            add_headers(scope, _cors(origin))
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await send_reply(send, 204, _preflight(headers), b"")
                return
        self._check_key(scope, headers)
        _check_content(scope, headers)
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> str:
        given = headers.getlist("host")
        if len(given) != 1 or not self._rules.hosts.admits(given[0]):
            raise Forbidden(
                "host_not_allowed",
                "The Host header names a host this server does not answer for.",
                "Call it as 127.0.0.1 or localhost, or start it with --allow-host NAME.",
            )
        return given[0]

    def _check_origin(self, headers: Headers, host: str) -> str | None:
        """The admitted Origin of another place; None where the request has none, or comes from a page served here."""
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

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        expected = self._rules.api_key
        if expected is None or scope["path"] in KEYLESS_PATHS:
            return
        sent = headers.get("authorization"), headers.get("x-api-key")
        if not key_admitted(expected, authorization=sent[0], x_api_key=sent[1]):
            raise Unauthorized(
                "invalid_api_key",
                "The request carries no API key, or not this server's.",
                "Send it as 'Authorization: Bearer KEY'.",
            )


def _check_content(scope: Scope, headers: Headers) -> None:
    # A form or text/plain can be posted across origins without a preflight; application/json cannot.
    if scope["method"] not in ("POST", "PUT", "PATCH"):
        return
    media, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.replace('"', "").strip().lower()
    if media.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise UnsupportedMedia(
            "unsupported_media_type", "The body must be JSON.", "Send 'Content-Type: application/json', in UTF-8."
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("unsupported_media_type", "The body is compressed.", "Send it without Content-Encoding.")


def _cors(origin: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"x-request-id, retry-after"),
        (b"vary", b"Origin"),
    )


def _preflight(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    wanted = [name.strip().lower() for name in headers.get("access-control-request-headers", "").split(",")]
    return (
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", _join(name for name in wanted if _REQUEST_HEADERS.fullmatch(name))),
        (b"access-control-max-age", _PREFLIGHT_SECONDS),
    )


def _join(names: Iterable[str]) -> bytes:
    return ", ".join(names).encode("ascii")
