"""The values exchanged between the scheduler and the engine, and how a move of KV is carried out."""

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
    """Sequence ids whose KV is no longer needed and must be cleared before anything else."""
    detach: tuple[int, ...]
    """Evicted slots, to be detached before any attach."""
    loads: tuple[Load, ...]
    """Adapters to start loading; each ends in `loaded` or `load_failed`."""
    loading: tuple[str, ...]
    """Ids of the requests that now wait for an adapter."""
    blocked: bool = False
    """True if a request waits for room in the pool."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The token chosen from a chunk's logits."""

    token: int
    stop: bool
    """True if the answer ends with this token: an end token or a stop string."""


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
    """Number of its first tokens that the sequence's KV holds once the plan's moves are done."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Remove the KV positions from `length` on."""

    sequence: int
    length: int

    def carry_out(self, backend: Backend) -> None:
        backend.truncate(self.sequence, self.length)


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the first `length` positions of `source` to the empty `sequence`."""

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
        """The chunk's drafted tokens; empty unless the chunk asks for logits after several tokens."""
        return self.chunk.tokens[len(self.chunk.tokens) - self.chunk.logits + 1 :] if self.chunk.logits else ()


@dataclass(frozen=True, slots=True)
class Plan:
    number: int
    preempted: tuple[str, ...]
    """Ids of the requests that are preempted and wait again."""
    given_up: tuple[int, ...]
    """Cached sequence ids whose id or cells are needed."""
    moves: tuple[Cut | Copy, ...]
    """Moves of KV before the step, in order: preempted sequences, rejected drafts, given-up ids, reused prefixes."""
    starts: tuple[Start, ...]
    rows: tuple[ScheduledChunk, ...]
    """Chunks of the step; empty only if nothing can run."""
    stake: float = 0.0
    """Steps that trying a step of this size may lose, as in `Drafts`."""

    @property
    def tokens(self) -> int:
        return sum(len(row.chunk.tokens) for row in self.rows)
