"""The listening sockets: which addresses, whether they need a key, and what to say when they cannot be had."""

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
"""Where any port would do, the one found for 127.0.0.1 may be taken on ::1."""


def is_loopback(host: str) -> bool:
    """Whether a host can be reached from this machine alone. A name other than localhost never counts as loopback."""
    if is_address(host.strip("[]")):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host.lower() == "localhost"


def bind(options: ServerOptions) -> list[socket.socket]:
    """Listening sockets, all on one port. Raises UsageError (no key off loopback, no such address), Busy,
    and StorageError where the keys cannot be read.
    """
    if not is_loopback(options.host):
        _check_keys(options)
    bound: list[socket.socket] = []
    try:
        for address in _addresses(options.host):
            port = bound[0].getsockname()[1] if bound else options.port
            spare = _SPARE_ANY_PORT if options.port == 0 else _NO_SUCH_FAMILY
            listening = _listen(address, port, forgiven=spare if bound else ())
            if listening is not None:
                bound.append(listening)
    except BaseException:
        close_all(bound)
        raise
    return bound


def urls(bound: Sequence[socket.socket]) -> list[str]:
    """`http://ADDRESS:PORT` of each socket."""
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
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise UsageError("bad_host", f"There is no address for the host {host!r}.", "Check --host.") from None
    return [str(found[0][4][0])]


def _listen(address: str, port: int, *, forgiven: Sequence[int]) -> socket.socket | None:
    """A listening socket; None where it cannot be had for one of the `forgiven` error numbers (no IPv6)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening: socket.socket | None = None
    try:
        # By its name: only then asyncio turns Nagle's algorithm off, and a reply does not wait 40 ms for an ACK.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        _set_options(listening, family)
        listening.bind((address, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        if listening is not None:
            listening.close()
        if error.errno in forgiven:
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
