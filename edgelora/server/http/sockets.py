"""The listening sockets: their addresses, whether they need a key, and errors for those that cannot be opened."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Sequence

from edgelora.core.errors import Busy, UsageError
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.origins import is_address
from edgelora.store.keys.store import KeyStore

_BACKLOG = 128
_LOOPBACK = ("127.0.0.1", "::1")
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_SPARE_ANY_PORT = (*_NO_SUCH_FAMILY, errno.EADDRINUSE)
"""Errors that are ignored on ::1 if any port will do: the free port of 127.0.0.1 may be in use there."""


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the host. The one name that counts as loopback is localhost."""
    if is_address(host.strip("[]")):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host.lower() == "localhost"


def bind(options: ServerOptions) -> list[socket.socket]:
    """Return listening sockets, all on one port.

    Raises UsageError for an unknown address, or for one off loopback while there is no key; Busy if the port is in
    use; StorageError if the keys cannot be read.
    """
    if not is_loopback(options.host):
        _check_keys(options)
    bound: list[socket.socket] = []
    try:
        for address in _addresses(options.host):
            port = bound[0].getsockname()[1] if bound else options.port
            spare = _SPARE_ANY_PORT if options.port == 0 else _NO_SUCH_FAMILY
            listening = _listen(address, port, ignored=spare if bound else ())
            if listening is not None:
                bound.append(listening)
    except BaseException:
        close_all(bound)
        raise
    return bound


def urls(bound: Sequence[socket.socket]) -> list[str]:
    """Return the URL of each socket, such as `http://127.0.0.1:8321`."""
    return [_url(*listening.getsockname()[:2]) for listening in bound]


def close_all(bound: Sequence[socket.socket]) -> None:
    for listening in bound:
        listening.close()


def _check_keys(options: ServerOptions) -> None:
    if options.keyless:
        raise UsageError(
            "keyless_off_loopback",
            f"Listening on {options.host} lets other machines in, and those need a key.",
            "Leave --allow-keyless out, or listen on localhost.",
        )
    if not options.api_key and not (options.secrets and KeyStore(options.secrets).list()):
        raise UsageError(
            "api_key_required",
            f"Listening on {options.host} lets other machines in, and there is no API key.",
            "Make one with `edgelora keys add NAME`, set EDGELORA_API_KEY, or listen on localhost.",
        )


def _addresses(host: str) -> list[str]:
    if host.lower() == "localhost":
        return list(_LOOPBACK)
    try:
        results = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise UsageError("bad_host", f"There is no address for the host {host!r}.", "Check --host.") from None
    return [str(results[0][4][0])]


def _listen(address: str, port: int, *, ignored: Sequence[int]) -> socket.socket | None:
    """Return a listening socket, or None if opening it fails with one of the `ignored` error numbers."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening: socket.socket | None = None
    try:
        # With IPPROTO_TCP asyncio turns Nagle's algorithm off, and a reply does not wait 40 ms for an ACK.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        _set_options(listening, family)
        listening.bind((address, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        if listening is not None:
            listening.close()
        if error.errno in ignored:
            return None
        raise _refusal(error, address, port) from None
    return listening


def _set_options(listening: socket.socket, family: int) -> None:
    if sys.platform == "win32":
        # There, SO_REUSEADDR would let another program take the port over.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _refusal(error: OSError, address: str, port: int) -> Busy | UsageError:
    if error.errno == errno.EADDRINUSE:
        return Busy(
            "port_in_use",
            f"Port {port} on {address} is in use by another program.",
            "Choose another with --port, or --port 0 for any free one.",
        )
    if error.errno == errno.EACCES:
        return UsageError(
            "port_forbidden", f"Port {port} may not be opened by this user.", "Choose a port above 1023 with --port."
        )
    if error.errno in _NO_SUCH_FAMILY:
        return UsageError("bad_host", f"{address} is not an address of this machine.", "Check --host.")
    return UsageError("cannot_listen", f"Cannot listen on {address} port {port}: {error.strerror}.", "Check --host.")


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
