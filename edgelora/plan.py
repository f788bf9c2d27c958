"""What the scheduler and the engine tell each other. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.backends.base import Chunk
from edgelora.core import AdapterRef, FinishReason, Usage


@dataclass(frozen=True, slots=True)
class Load:
    ref: AdapterRef
    slot: int


@dataclass(frozen=True, slots=True)
class Admission:
    clears: tuple[int, ...]
    """Sequence ids whose KV is of no more use: it must be cleared, before anything else."""
    detach: tuple[int, ...]
    """Evicted slots, to be detached before any attach."""
    loads: tuple[Load, ...]
    """Adapters to start loading; each ends in `loaded` or `load_failed`."""
    loading: tuple[str, ...]
    """Requests that now wait for an adapter."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What followed a row's logits."""

    token: int
    stop: bool
    """Whether the answer ends with it: an end token or a stop string."""


@dataclass(frozen=True, slots=True)
class Ended:
    request_id: str
    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class Start:
    request_id: str
    sequence: int
    reused: int
    """How many of its first tokens that sequence's KV holds already, once it is cut."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Positions from `length` on go."""

    sequence: int
    length: int


@dataclass(frozen=True, slots=True)
class Row:
    """One chunk of the step, and whose it is."""

    request_id: str
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Plan:
    number: int
    preempted: tuple[str, ...]
    """Requests that go back to waiting."""
    given_up: tuple[int, ...]
    """Warm sequence ids whose place or cells are needed."""
    cuts: tuple[Cut, ...]
    """KV to cut before the step: of the preempted, of the given up, and of what is reused."""
    starts: tuple[Start, ...]
    rows: tuple[Row, ...]
    """Empty only where nothing can run."""
