"""The options of a server, with their defaults. Reads no environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgelora.server.http.timeouts import DEFAULT, RequestTimeouts

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 8321
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerOptions:
    host: str = DEFAULT_HOST
    """The address or name to listen on. `localhost` is both 127.0.0.1 and ::1; any other host needs a key."""
    port: int = DEFAULT_PORT
    """The TCP port; 0 takes any free one."""
    api_key: str | None = None
    """The API key that requests need, if set. It does not allow management."""
    secrets: Path | None = None
    """The folder of the management token and the named keys; None: there are none, and nobody can manage."""
    keyless: bool = False
    """True to let programs on this machine in without a key, although there are named keys."""
    requests_per_minute: int | None = None
    """Limit of requests per minute of all callers together; None: no limit."""
    tokens_per_minute: int | None = None
    """Limit of prompt and completion tokens per minute of all callers together; None: no limit."""
    allow_hosts: tuple[str, ...] = ()
    """Names that a Host header may have besides the loopback ones and `host`."""
    allow_origins: tuple[str, ...] = ()
    """Web origins that may call: exact ones, `scheme://*`, or `desktop` for the usual application shells."""
    body_bytes: int = 4 * MIB
    """Maximum size of a JSON body."""
    upload_bytes: int = 2048 * MIB
    """Maximum size of an uploaded adapter."""
    adapter_roots: tuple[Path, ...] = ()
    """Folders below which clients may name an adapter by its path."""
    body_seconds: float = 30.0
    """Maximum seconds for receiving a JSON body."""
    keepalive_seconds: float = 10.0
    """Seconds of silence in a stream after which a comment is sent, so that clients and proxies keep waiting."""
    access_log: bool = False
    """True to log each request in one line: names, numbers and times, nothing of its content."""
    drain_seconds: float = 30.0
    """Maximum seconds that running generations continue after the server was asked to end."""
    timeouts: RequestTimeouts = DEFAULT
    """Limits of a request's time in the queue and in total."""
