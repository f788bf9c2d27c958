"""The rule for following redirects: a hub that answers with another address must not make this machine fetch from
inside its own network, nor over plain http."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import SplitResult, urlsplit

from edgelora.core.errors import BaseError

_PORTS = {"http": 80, "https": 443}


def check_redirect(endpoint: str, target: str) -> None:
    """Raise BaseError unless a request to `endpoint`'s hub may be sent on to `target`.

    Allowed: the endpoint's own origin; https elsewhere, but never from a public endpoint to a private address; and
    from a loopback endpoint to loopback, which is a mirror on this machine.
    """
    home, there = urlsplit(endpoint), urlsplit(target)
    if same_origin(endpoint, target):
        return
    private_home = _any_private(home.hostname)
    if there.scheme == "http" and _loopback(home.hostname) and _loopback(there.hostname):
        return
    if there.scheme != "https" or there.hostname is None:
        raise _refused(there, "that is not https")
    if not private_home and _any_private(there.hostname):
        raise _refused(there, "that is an address inside a private network")


def same_origin(a: str, b: str) -> bool:
    """Return whether two URLs share scheme, host and port; only then is a token sent along."""
    return _origin(urlsplit(a)) == _origin(urlsplit(b))


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or _PORTS.get(url.scheme)


def _loopback(host: str | None) -> bool:
    addresses = _addresses(host)
    return bool(addresses) and all(address.is_loopback for address in addresses)


def _any_private(host: str | None) -> bool:
    return any(not address.is_global for address in _addresses(host))


def _addresses(host: str | None) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Resolve a host name. Empty where it cannot be resolved: behind a proxy, the proxy does that."""
    try:
        entries = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return []
    return [_plain(str(entry[4][0])) for entry in entries]


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _refused(url: SplitResult, why: str) -> BaseError:
    message = f"The hub sent the download on to {url.scheme}://{url.netloc}, and {why}."
    return BaseError("bad_redirect", message, "Check HF_ENDPOINT and the proxy; nothing was fetched from there.")
