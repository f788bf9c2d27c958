"""The values between the scheduler and the engine, and how a move of KV is done."""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.backends.base import Backend, Chunk
from edgelora.core.events import FinishReason, Usage
from edgelora.core.request import AdapterRef


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
    blocked: bool = False
    """Whether a request waits for room in the pool."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The token chosen from a chunk's logits."""

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
    """Number of its first tokens that the sequence's KV holds already, once the plan's moves are done."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Positions from `length` on go."""

    sequence: int
    length: int

    def carry_out(self, backend: Backend) -> None:
        backend.truncate(self.sequence, self.length)


@dataclass(frozen=True, slots=True)
class Copy:
    """`sequence`, which holds nothing, gets the first `length` positions of `source`."""

    source: int
    sequence: int
    length: int

    def carry_out(self, backend: Backend) -> None:
        backend.copy(self.source, self.sequence, self.length)


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """One chunk of the step, and the request it belongs to."""

    request_id: str
    chunk: Chunk

    @property
    def draft(self) -> tuple[int, ...]:
        """The chunk's tokens that are only supposed to follow: none unless the logits after several are wanted."""
        return self.chunk.tokens[len(self.chunk.tokens) - self.chunk.logits + 1 :] if self.chunk.logits else ()


@dataclass(frozen=True, slots=True)
class Plan:
    number: int
    preempted: tuple[str, ...]
    """Requests that go back to waiting."""
    given_up: tuple[int, ...]
    """Warm sequence ids whose place or cells are needed."""
    moves: tuple[Cut | Copy, ...]
    """The moves of KV before the step, in this order: of the preempted, of rejected drafts, of the given up, of what
    is reused."""
    starts: tuple[Start, ...]
    rows: tuple[ScheduledChunk, ...]
    """Empty only where nothing can run."""
    stake: float = 0.0
    """From `Drafts`: what trying a step of this size may lose."""

    @property
    def tokens(self) -> int:
        return sum(len(row.chunk.tokens) for row in self.rows)
