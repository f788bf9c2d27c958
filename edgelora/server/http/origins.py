"""Checks of the Host, Origin and Sec-Fetch-Site headers, and the keys that a request carries. Pure.

A web page anywhere can make its visitor's browser send requests to localhost. Three headers show it: Host
contains the page's own name after DNS rebinding, Origin its origin, and Sec-Fetch-Site is `cross-site`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from edgelora.core.errors import UsageError

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

DESKTOP_ORIGINS = (
    "tauri://localhost",
    "http://tauri.localhost",
    "https://tauri.localhost",
    "app://*",
    "file://*",
    "vscode-file://*",
    "vscode-webview://*",
)
"""Origins of pages inside application shells. No web page can have one of them."""

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*]*")


def host_name(header: str) -> str | None:
    """Return the name or address in a Host header, in lower case, without port and brackets; None if malformed."""
    match = _HOST.fullmatch(header.lower())
    return match["name"].strip("[]") if match else None


class HostList:
    """The hosts that a Host header may name."""

    def __init__(self, names: Iterable[str], *, any_address: bool) -> None:
        """`any_address`: also allow every IP address; DNS rebinding needs a name."""
        self._names = frozenset(name.lower().strip("[]") for name in names)
        self._any_address = any_address

    def admits(self, header: str | None) -> bool:
        name = host_name(header) if header is not None else None
        return name is not None and (name in self._names or (self._any_address and is_address(name)))


class OriginList:
    """The origins of pages that may call. `desktop` stands for DESKTOP_ORIGINS, `scheme://*` for a whole scheme."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Raises UsageError for an entry that is no origin, or that would allow every web page."""
        origins = [origin for entry in entries for origin in _expand(entry)]
        self._exact = frozenset(origin for origin in origins if not origin.endswith("://*"))
        self._schemes = tuple(origin.removesuffix("*") for origin in origins if origin.endswith("://*"))

    def __contains__(self, origin: str) -> bool:
        lower = origin.lower()
        return lower in self._exact or (lower.startswith(self._schemes) and _ORIGIN.fullmatch(lower) is not None)


def own_origin(origin: str, host: str) -> bool:
    """Return True if this server itself served the page, under the same name and port that the page calls."""
    return origin.lower() == f"http://{host.lower()}"


def site_admitted(sec_fetch_site: str | None) -> bool:
    """Return True if Sec-Fetch-Site allows a request without an allowed Origin. Only browsers send the header."""
    return sec_fetch_site in (None, "none", "same-origin")


def presented(authorization: str | None, x_api_key: str | None) -> list[bytes]:
    """Return the secrets in the two headers in which clients send a key."""
    scheme, _, token = (authorization or "").partition(" ")
    given = (token.strip() if scheme.lower() == "bearer" else "", (x_api_key or "").strip())
    # Header values come decoded as Latin-1, whatever bytes the client wrote.
    return [secret.encode("latin-1") for secret in given if secret]


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _expand(entry: str) -> tuple[str, ...]:
    origin = entry.strip().rstrip("/").lower() if not entry.endswith("://*") else entry.lower()
    if origin == "desktop":
        return DESKTOP_ORIGINS
    if _ORIGIN.fullmatch(origin.removesuffix("*")) is None or origin in ("http://*", "https://*"):
        raise UsageError(
            "bad_origin",
            f"{entry!r} is not an origin that can be allowed.",
            "Write one such as https://app.example.com, http://localhost:3000, app://*, or desktop.",
        )
    return (origin,)
