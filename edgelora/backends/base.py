"""The interface between the engine and a backend. One backend instance holds one resident base.

Threads: `load` and `tokenizer` may be used from any thread; everything else only from the engine thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelora.core.kv import SavedKv
from edgelora.core.request import AdapterFormat
from edgelora.core.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The abilities of a backend, within which the scheduler plans."""

    adapter_format: AdapterFormat
    """Format of the converted adapters that `load` reads."""
    mixed_adapters: bool
    """True if one step may apply different adapters to its tokens.

    If False, the scheduler groups sequences by the adapters and weights applied, in turn, and ends a chunk where
    another adapter begins.
    """
    max_slots: int
    """Maximum number of adapters attached at once."""
    max_sequences: int
    """Maximum number of sequences with KV; their ids are 0 .. max_sequences - 1."""
    max_step_tokens: int
    """Maximum tokens in one step, over all chunks."""
    context_length: int
    """Maximum tokens of one sequence (prompt and answer)."""
    kv_cells: int
    """Maximum tokens of KV over all sequences."""

    @property
    def sequence_tokens(self) -> int:
        """Maximum tokens of one sequence by context length and KV together."""
        return min(self.context_length, self.kv_cells)

    max_outputs: int
    """Maximum number of tokens of one step with logits, over all chunks."""
    widens_adapters: bool = False
    """True if adapters take four bytes per value in memory, however they are stored."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The application of one adapter to a sequence.

    A position's delta is the weighted sum over all adapters applied to it, each relative to the base's output: DoRA's
    row scales apply to the base, whatever other adapters are applied.
    """

    slot: int
    weight: float = 1.0
    start: int = 0
    """First position of the sequence the adapter applies to; positions before it are computed without it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some tokens of one sequence, to be computed in the next step."""

    sequence: int
    position: int
    """Position of tokens[0]; the sequence's KV holds exactly the positions before it."""
    tokens: tuple[int, ...]
    adapters: tuple[Applied, ...]
    """Adapters applied to the sequence, each slot once, in any order; empty for the base alone.

    They are the same for every chunk of a sequence, except that an adapter's slot may change, and one that has not
    begun may be left out or added.
    """
    logits: int
    """Number of last tokens whose logits are returned. True and False count as 1 and 0."""


class Loaded(Protocol):
    """An adapter's arrays in memory, checked against the base's shapes; opaque to the engine."""

    @property
    def nbytes(self) -> int: ...


class Backend(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def kv_identity(self) -> str:
        """One line of text with everything that a `SavedKv` depends on besides the base's file, adapters and tokens.

        The library and its build, the processor features it uses, the KV's type, and the LoRA implementation.
        """
        ...

    def load(self, path: Path) -> Loaded:
        """Read a converted adapter. Raises AdapterError if it is corrupt or has other shapes. Changes nothing."""
        ...

    def attach(self, slot: int, loaded: Loaded) -> None:
        """Attach an adapter to a free slot; from the next step on, chunks may use it."""
        ...

    def detach(self, slot: int) -> None:
        """Detach a slot's adapter.

        KV computed with it stays, and may be reused under any slot that holds the same adapter again.
        """
        ...

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        """Run one forward pass. Return the logits [chunk.logits, tokenizer.size] of each chunk in order, or None.

        Rows are in the order of the tokens: the last row predicts the token after the last one.

        At most one chunk per sequence. The caller owns the arrays. Raises BackendError; the KV of the sequences in
        `chunks` is then undefined and they must be cleared.
        """
        ...

    def clear(self, sequence: int) -> None:
        """Remove a sequence's KV. Does nothing if there is none."""
        ...

    def truncate(self, sequence: int, length: int) -> None:
        """Keep the KV of positions 0 to `length` - 1 and remove the rest; length 0 is `clear`.

        Raises BackendError if the sequence holds fewer tokens, or, for any length but 0, after a failed step.
        """
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of another sequence's KV to an empty sequence, at negligible cost.

        Both may then be extended, truncated and cleared independently. Raises BackendError as `truncate` does.
        """
        ...

    def save(self, sequence: int, length: int) -> SavedKv:
        """Copy out the KV of the first `length` positions; the sequence keeps it. Costs one pass over those bytes.

        Raises BackendError as `truncate` does.
        """
        ...

    def restore(self, sequence: int, saved: SavedKv) -> None:
        """Restore saved KV to an empty sequence, which may then be extended, truncated, copied and cleared.

        The caller must ensure that base, adapters and tokens are those it was saved with. Raises BackendError for
        another identity or a wrong size, before anything is changed, and if cells are missing; the sequence is then
        empty.
        """
        ...

    def allocated_bytes(self) -> tuple[int, int]:
        """Return the current and peak bytes of the backend's own allocator; (0, 0) without one. Cheap.

        May be called from any thread, also after `close`.
        """
        ...

    def close(self) -> None:
        """Free all memory. May be called twice."""
        ...
