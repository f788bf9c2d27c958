"""The seam between the engine and what computes. One backend instance holds one resident base.

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
    """The conversion that the store must hand to `load`."""
    mixed_adapters: bool
    """Whether one step may apply different adapters to its tokens. Where False the scheduler groups sequences by the
    adapters and weights that act, in turn, and ends a chunk where another adapter begins."""
    max_slots: int
    """Adapters attached at once."""
    max_sequences: int
    """Sequences with KV at once; their ids are 0 .. max_sequences - 1."""
    max_step_tokens: int
    """Tokens in one step, over all chunks."""
    context_length: int
    """Tokens of one sequence at most (prompt and answer)."""
    kv_cells: int
    """Tokens of KV over all sequences at most."""

    @property
    def sequence_tokens(self) -> int:
        """Tokens of one sequence at most, wherever the limit comes from."""
        return min(self.context_length, self.kv_cells)

    max_outputs: int
    """Tokens of one step whose logits may be wanted, over all chunks."""
    widens_adapters: bool = False
    """Whether adapters take four bytes a value in memory, in however few they are stored."""


@dataclass(frozen=True, slots=True)
class Applied:
    """One adapter's part in a sequence. A position's delta is the weighted sum of all that act on it, each a change of
    what the base computes: DoRA's row scales are of that, whatever else acts."""

    slot: int
    weight: float = 1.0
    start: int = 0
    """The first position of the sequence it acts on; positions before it are computed without it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some tokens of one sequence, to be computed in the next step."""

    sequence: int
    position: int
    """Position of tokens[0]; the sequence's KV holds exactly the positions before it."""
    tokens: tuple[int, ...]
    adapters: tuple[Applied, ...]
    """The adapters that act on the sequence, each slot once, in any order; empty is the base alone. The same
    for every chunk of the
    sequence, but that an adapter's slot may change and one that has not begun may be left out or join."""
    logits: int
    """After how many of the last tokens the logits are wanted. True and False read as 1 and 0."""


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
        """One line of text with everything that the bytes of a `SavedKv` depend on besides the base's file,
        the adapters and the tokens.

        The library and its build, the processor features it uses, the KV's type, what adds the adapters.
        """
        ...

    def load(self, path: Path) -> Loaded:
        """Read a converted adapter. Raises AdapterError where it is corrupt or of other shapes. Changes nothing."""
        ...

    def attach(self, slot: int, loaded: Loaded) -> None:
        """Put an adapter in a free slot; from the next step its chunks may name it."""
        ...

    def detach(self, slot: int) -> None:
        """Forget a slot's adapter. KV that was computed with it stays, and may be gone on from under any slot that
        holds the same adapter again."""
        ...

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        """Run one forward pass. Return for each chunk in order its logits [chunk.logits, tokenizer.size], or None.

        In order of the tokens: the last row is what follows the last token.

        At most one chunk per sequence. The arrays are the caller's to keep. Raises BackendError; the KV of the named
        sequences is then undefined and they must be cleared.
        """
        ...

    def clear(self, sequence: int) -> None:
        """Forget a sequence's KV. Safe for a sequence without any."""
        ...

    def truncate(self, sequence: int, length: int) -> None:
        """Keep the KV of positions 0 to `length` - 1 and forget the rest; length 0 is `clear`.

        Raises BackendError where the sequence holds fewer tokens, or, for any length but 0, after a failed step.
        """
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Give a sequence that holds nothing the first `length` positions of another's KV, at no cost worth counting.

        Each may then be gone on with, cut and cleared on its own. Raises BackendError as `truncate` does.
        """
        ...

    def save(self, sequence: int, length: int) -> SavedKv:
        """Copy out the KV of the first `length` positions; the sequence keeps it. Costs one pass over those bytes.

        Raises BackendError as `truncate` does.
        """
        ...

    def restore(self, sequence: int, saved: SavedKv) -> None:
        """Give a sequence that holds nothing what was saved; it may then be gone on with, cut, copied and cleared.

        Whether the base, the adapters and the tokens are those it was saved with is the caller's to know. Raises
        BackendError for bytes of another identity or of a wrong size, before anything is touched, and where cells are
        missing; the sequence then holds nothing.
        """
        ...

    def allocated_bytes(self) -> tuple[int, int]:
        """Return the bytes that the backend's own allocator holds now, and the most so far; (0, 0) without one. Cheap.

        Any thread; also after `close`.
        """
        ...

    def close(self) -> None:
        """Give everything back. Safe twice."""
        ...
