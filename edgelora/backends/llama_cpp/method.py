"""The seam inside the backend: how adapters reach the graph. Two ways: `hook` (the default) and `native`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgelora.backends.base import Chunk, Loaded


@dataclass(frozen=True, slots=True)
class Share:
    """One adapter's part of a step. Ranges are start, stop (exclusive)."""

    slot: int | None
    rows: tuple[int, int]
    """Among all rows of the step."""
    outputs: tuple[int, int]
    """Among the rows whose logits are wanted; the last layer's tail is computed for these alone."""


def shares_of(chunks: Iterable[Chunk]) -> tuple[Share, ...]:
    """One Share for each run of chunks with the same slot; one for each slot where the chunks are sorted by it."""
    shares: list[Share] = []
    row = output = 0
    for chunk in chunks:
        rows, outputs = (row, row + len(chunk.tokens)), (output, output + chunk.logits)
        if shares and shares[-1].slot == chunk.slot:
            last = shares.pop()
            rows, outputs = (last.rows[0], rows[1]), (last.outputs[0], outputs[1])
        shares.append(Share(chunk.slot, rows, outputs))
        row, output = rows[1], outputs[1]
    return tuple(shares)


class LoraMethod(Protocol):
    """Keeps the attached adapters and applies them while a step is computed. Engine thread only, `load` excepted."""

    @property
    def mixed_adapters(self) -> bool: ...

    def load(self, path: Path) -> Loaded:
        """Read and check an adapter. Raises AdapterError. Any thread."""
        ...

    def attach(self, slot: int, loaded: Loaded) -> None:
        """Put what `load` gave in a free slot. Raises BackendError."""
        ...

    def detach(self, slot: int) -> None:
        """Empty a slot. Safe for an empty one."""
        ...

    def run(self, shares: Sequence[Share], decode: Callable[[], int]) -> int:
        """Call `decode` with each share's adapter applied to its rows; its return code. Raises BackendError."""
        ...
