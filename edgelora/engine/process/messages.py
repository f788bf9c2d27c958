"""The messages between the server's process and the engine's: frozen values, as msgpack. Owns the codecs, no pipe.

Every type is checked where it arrives. `core`'s values cross as they are, so a field added there needs nothing here.
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
"""The uses of an adapter before it is known to do no harm; one of each at a time."""


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
    """The place of KV on disk, and the origin it must have: see `PrefixCache`."""

    root: Path
    budget_bytes: int
    base: Path
    template: str


class Open(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message: what the process is there for."""

    opener: str
    """`module:function`, called with `argument` and a Progress; returns the backend."""
    argument: bytes
    adapter_budget_bytes: int
    max_queue: int
    speculate: bool
    parent: int
    """The process it must not outlive."""
    prefixes: Prefixes | None = None


class PrefixWriteSpec(msgspec.Struct, frozen=True, array_like=True):
    """A `Keep`, without who waits for it."""

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
    """Are you there? Answered by `Pong`, whatever the engine does."""


class Close(msgspec.Struct, frozen=True, array_like=True, tag=True):
    drain: bool
    timeout: float | None


Command = Open | Submit | Cancel | Preload | Ping | Close


class Loading(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The progress of loading the base, as `Progress`."""

    label: str
    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The base is in memory; commands are obeyed from now on."""

    capabilities: Capabilities
    kv_identity: str


class NotOpened(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The base cannot be opened; the process ends."""

    fault: EncodedError


class Placed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A request has its place in the batch."""

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
    """The result of a request's `keep`; None: the request ended before."""

    id: str
    stored: StoredPrefix | None
    fault: EncodedError | None = None


class Stats(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Sent whenever they change, without the parts that did not: see `totals.py`."""

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
    """These adapters are about to be used as they never were in this process; none: that went well."""

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
    """Return a value of `kind`. Raises msgspec.ValidationError."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_decode)


encode = msgspec.msgpack.Encoder(enc_hook=_encode).encode
"""A list of commands, or of events, as bytes; and any other value made of such parts."""
decode_commands = msgspec.msgpack.Decoder(list[Command], dec_hook=_decode).decode
decode_events = msgspec.msgpack.Decoder(list[Event], dec_hook=_decode).decode
