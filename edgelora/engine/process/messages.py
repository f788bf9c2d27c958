"""The messages between the server's process and the engine's: frozen values, as msgpack. Owns the codecs, no pipe.

The receiver checks every type. The values of `core` are sent unchanged, so a field added there needs no change here.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from edgelora.backends.base import Capabilities
from edgelora.core.events import Finished, TextDelta
from edgelora.core.kv import Key
from edgelora.core.request import AdapterRef, Request
from edgelora.engine.process.error_codec import EncodedError
from edgelora.engine.stats import EngineStats
from edgelora.store.prefixes.layout import StoredPrefix

Phase = Literal["load", "attach", "step"]
"""First uses of an adapter that may crash the process; at most one of each is in progress."""


class ExitCode(IntEnum):
    """The exit codes of the engine's process."""

    CLOSED = 0
    """It was asked to end."""
    ORPHANED = 3
    """Its parent was gone."""
    NOT_OPENED = 4
    """The base cannot be opened; `NotOpened` has the reason."""
    THREAD_FAILED = 5
    """One of its threads ended by an exception, which is in the log. Nothing that waits for it would ever end."""


class Prefixes(msgspec.Struct, frozen=True, array_like=True):
    """Location of the KV on disk, and the origin it must have; see `PrefixCache`."""

    root: Path
    budget_bytes: int
    base: Path
    template: str


class Open(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message, which tells the process what to open."""

    opener: str
    """`module:function`, called with `argument` and a Progress; returns the backend."""
    argument: bytes
    adapter_budget_bytes: int
    max_queue: int
    speculate: bool
    parent: int
    """Process id of the parent, which this process must not outlive."""
    prefixes: Prefixes | None = None


class PrefixWriteSpec(msgspec.Struct, frozen=True, array_like=True):
    """A `PrefixWrite` without its future."""

    key: Key
    tokens: tuple[int, ...]
    name: str | None


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=True):
    request: Request
    keep: PrefixWriteSpec | None = None


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=True):
    id: str


class Preload(msgspec.Struct, frozen=True, array_like=True, tag=True):
    number: int
    ref: AdapterRef
    pin: bool
    instead_of: AdapterRef | None = None


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A check that the process responds, answered by `Pong` whatever the engine is doing."""


class Close(msgspec.Struct, frozen=True, array_like=True, tag=True):
    drain: bool
    timeout: float | None


Command = Open | Submit | Cancel | Preload | Ping | Close


class Loading(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Progress of loading the base, with the arguments of `Progress`."""

    label: str
    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The base is loaded, and commands are executed from now on."""

    capabilities: Capabilities
    kv_identity: str


class NotOpened(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The base cannot be opened; the process exits."""

    fault: EncodedError


class Placed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A request got its sequence id."""

    id: str


class TextProduced(msgspec.Struct, frozen=True, array_like=True, tag=True):
    id: str
    delta: TextDelta


class RequestFinished(msgspec.Struct, frozen=True, array_like=True, tag=True):
    id: str
    finished: Finished


class RequestFailed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A request ended without an answer, or was refused."""

    id: str
    fault: EncodedError


class Preloaded(msgspec.Struct, frozen=True, array_like=True, tag=True):
    number: int
    outcome: bool | EncodedError


class PrefixWritten(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The result of a request's `keep`. Without `stored` and `fault`, the request ended before the write."""

    id: str
    stored: StoredPrefix | None
    fault: EncodedError | None = None


class Stats(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Statistics, sent whenever they change, without the parts that did not; see `stats_totals.py`."""

    stats: EngineStats
    same: tuple[str, ...]


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answer to a `Ping`: what the engine is doing."""

    call: int
    """Number of calls into the backend that were begun."""
    bound: float | None
    """Seconds after which the call that runs is taken for hung; None if none runs."""
    round: int | None = None
    """Number of rounds that the engine has begun; None while it sleeps, and before it started."""


class FirstUse(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """These adapters are about to be used in this phase for the first time in this process; none: the use succeeded."""

    phase: Phase
    paths: tuple[Path, ...]


class Logged(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A line of the other process's log."""

    logger: str
    level: int
    line: str


Event = (
    Loading
    | Ready
    | NotOpened
    | Placed
    | TextProduced
    | RequestFinished
    | RequestFailed
    | Preloaded
    | PrefixWritten
    | Stats
    | Pong
    | FirstUse
    | Logged
)


def _encode(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} cannot cross")


def _decode(kind: type, value: Any) -> Any:
    if issubclass(kind, Path):
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} cannot cross")


T = TypeVar("T")


def decoded(data: bytes, kind: type[T]) -> T:
    """Return a value of type `kind`. Raises msgspec.ValidationError."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_decode)


encode = msgspec.msgpack.Encoder(enc_hook=_encode).encode
"""Encodes a list of commands or of events, or any value of the same types, as bytes."""
decode_commands = msgspec.msgpack.Decoder(list[Command], dec_hook=_decode).decode
decode_events = msgspec.msgpack.Decoder(list[Event], dec_hook=_decode).decode
