"""How the server is to be run: one value, made by whoever starts it. Owns the defaults and reads no environment."""

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
    """An address or name to listen on. `localhost` is both 127.0.0.1 and ::1; elsewhere needs a key."""
    port: int = DEFAULT_PORT
    """0 takes any free port."""
    api_key: str | None = None
    """Asked of every request but those that anyone may send (`doors.py`) where set. It opens nothing that manages."""
    secrets: Path | None = None
    """The folder of the management token and the named keys. None: there are none, and nobody manages."""
    keyless: bool = False
    """On loopback, whether programs without a key are let in though there are named keys."""
    requests_per_minute: int | None = None
    """Of all callers together, whichever adapter they use; None is without limit."""
    tokens_per_minute: int | None = None
    """The same for the tokens of prompts and answers."""
    allow_hosts: tuple[str, ...] = ()
    """Names a Host header may carry besides the loopback ones and `host`."""
    allow_origins: tuple[str, ...] = ()
    """Web origins that may call: exact, `scheme://*`, or `desktop` for the usual application shells."""
    body_bytes: int = 4 * MIB
    """Size of a JSON body at most."""
    upload_bytes: int = 2048 * MIB
    """Size of an uploaded adapter at most."""
    adapter_roots: tuple[Path, ...] = ()
    """Folders below which a client may name an adapter by its path; none as a rule."""
    body_seconds: float = 30.0
    """How long a client may take to send a body."""
    keepalive_seconds: float = 10.0
    """Silence in a stream after which a comment is sent, so that clients and proxies keep waiting."""
    access_log: bool = False
    """Whether each request is logged in one line: names, numbers and times, nothing of its content."""
    drain_seconds: float = 30.0
    """How long running answers may go on after the server was told to end."""
    timeouts: RequestTimeouts = DEFAULT
    """How long a request may wait for its place, and take altogether."""
