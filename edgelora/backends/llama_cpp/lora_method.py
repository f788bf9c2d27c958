"""The ways to apply adapters in the graph: evaluation callback `hook` (the default), or llama.cpp's `native` LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgelora.backends.base import Applied, Chunk, Loaded
from edgelora.core.request import AdapterFormat


@dataclass(frozen=True, slots=True)
class Share:
    """One adapter's part of a step: rows that follow one another. Ranges are start, stop (exclusive)."""

    slot: int
    rows: tuple[int, int]
    """Range among all rows of the step."""
    outputs: tuple[int, int]
    """Range of those rows among the rows with logits; the last layer's tail has only these."""
    weight: float = 1.0
    gate: tuple[float, ...] = ()
    """Weight of each row if they differ (`weight` is 1 then); empty means all ones."""
    output_gate: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class StepShares:
    """All that is added in a step; shares may overlap, and none has no rows."""

    shares: tuple[Share, ...]
    rows: int
    outputs: int


def shares_of(chunks: Iterable[Chunk]) -> StepShares:
    """By slot: one share for all rows that stand together, so that an adapter's weights are read once for chunks sorted
    by slot. The rows before an adapter's start are in none of its shares.
    """
    runs: dict[int, list[list[_RowRun]]] = {}
    row = output = 0
    for chunk in chunks:
        for applied in chunk.adapters:
            piece = _piece(chunk, applied, row=row, output=output)
            if piece is not None:
                _append(runs.setdefault(applied.slot, []), piece)
        row, output = row + len(chunk.tokens), output + chunk.logits
    return StepShares(tuple(_share(slot, run) for slot in sorted(runs) for run in runs[slot]), row, output)


@dataclass(frozen=True, slots=True)
class _RowRun:
    """One chunk's part of a share."""

    rows: tuple[int, int]
    outputs: tuple[int, int]
    weight: float


def _piece(chunk: Chunk, applied: Applied, *, row: int, output: int) -> _RowRun | None:
    """`row`, `output`: where the chunk begins. None where the adapter does nothing in it."""
    stop, outputs = row + len(chunk.tokens), chunk.logits
    first = row + max(0, applied.start - chunk.position)
    if first >= stop or not applied.weight:
        return None
    first_output = output + max(0, first - (stop - outputs))
    return _RowRun((first, stop), (first_output, output + outputs), applied.weight)


def _append(runs: list[list[_RowRun]], piece: _RowRun) -> None:
    if runs and runs[-1][-1].rows[1] == piece.rows[0]:
        runs[-1].append(piece)
    else:
        runs.append([piece])


def _share(slot: int, run: Sequence[_RowRun]) -> Share:
    rows, outputs = (run[0].rows[0], run[-1].rows[1]), (run[0].outputs[0], run[-1].outputs[1])
    if len({piece.weight for piece in run}) == 1:
        return Share(slot, rows, outputs, run[0].weight)
    gate = tuple(piece.weight for piece in run for _ in range(*piece.rows))
    return Share(slot, rows, outputs, 1.0, gate, tuple(piece.weight for piece in run for _ in range(*piece.outputs)))


class LoraMethod(Protocol):
    """Keeps the attached adapters and applies them while a step is computed. Engine thread only, `load` excepted."""

    @property
    def kv_name(self) -> str:
        """The method's name in the identity of saved KV. It must never change: files on disk carry it."""
        ...

    @property
    def mixed_adapters(self) -> bool: ...

    @property
    def adapter_format(self) -> AdapterFormat:
        """Return what `load` is to be given."""
        ...

    @property
    def widens_adapters(self) -> bool:
        """Whether every value takes four bytes in memory."""
        ...

    def load(self, path: Path) -> Loaded:
        """Read and check an adapter. Raises AdapterError. Any thread."""
        ...

    def attach(self, slot: int, loaded: Loaded) -> None:
        """Put what `load` gave in a free slot. Raises BackendError."""
        ...

    def detach(self, slot: int) -> None:
        """Empty a slot. Safe for an empty one."""
        ...

    def run(self, step: StepShares, decode: Callable[[], int]) -> int:
        """Call `decode` with each share's adapter applied to its rows. Return its return code. Raises BackendError."""
        ...
