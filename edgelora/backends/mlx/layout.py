"""One step's chunks as rows: which row is whose token, what acts on it, and whose logits are wanted. Pure.

Rows of all chunks stand in one matrix without padding. Chunks on which the same adapters act stand side by side, so
that an adapter's factors are read once for all its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgelora.backends.base import Chunk

Acting = tuple[tuple[int, float], ...]
"""Slots and their weights, by slot; no weight is 0."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `start` to `stop` (exclusive), to all of which the same adapters apply."""

    start: int
    stop: int
    acting: Acting


@dataclass(frozen=True, slots=True)
class ChunkRows:
    """The rows of one sequence."""

    sequence: int
    start: int
    stop: int
    position: int
    """Position of the first row's token in its sequence."""


@dataclass(frozen=True, slots=True)
class StepLayout:
    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    pieces: tuple[ChunkRows, ...]
    segments: tuple[Segment, ...]
    """Segments that cover all rows, in order, without gaps."""
    outputs: tuple[int, ...]
    """Rows whose logits are returned."""
    output_segments: tuple[Segment, ...]
    """Segments of the rows with logits, numbered among those rows only."""
    wanted: Mapping[int, range]
    """Range of each sequence's rows in `outputs`, by sequence id."""


def lay_out(chunks: Iterable[Chunk]) -> StepLayout:
    """Return the rows of a step; at least one chunk, and at most one a sequence."""
    ordered = sorted(chunks, key=lambda chunk: _acting(chunk, chunk.position + len(chunk.tokens) - 1))
    pieces: list[ChunkRows] = []
    acting: list[Acting] = []
    outputs: list[int] = []
    output_rows: dict[int, range] = {}
    row = 0
    for chunk in ordered:
        stop = row + len(chunk.tokens)
        pieces.append(ChunkRows(chunk.sequence, row, stop, chunk.position))
        acting += _by_row(chunk)
        output_rows[chunk.sequence] = range(len(outputs), len(outputs) + chunk.logits)
        outputs += range(stop - chunk.logits, stop)
        row = stop
    return StepLayout(
        tokens=tuple(token for chunk in ordered for token in chunk.tokens),
        positions=tuple(piece.position + n for piece in pieces for n in range(piece.stop - piece.start)),
        pieces=tuple(pieces),
        segments=tuple(_segments(acting)),
        outputs=tuple(outputs),
        output_segments=tuple(_segments([acting[row] for row in outputs])),
        wanted=output_rows,
    )


def _acting(chunk: Chunk, position: int) -> Acting:
    return tuple(sorted((a.slot, a.weight) for a in chunk.adapters if a.weight and a.start <= position))


def _by_row(chunk: Chunk) -> Iterator[Acting]:
    end = chunk.position + len(chunk.tokens)
    changes = sorted({chunk.position, *(a.start for a in chunk.adapters if chunk.position < a.start < end)})
    for start, stop in zip(changes, [*changes[1:], end], strict=True):
        yield from [_acting(chunk, start)] * (stop - start)


def _segments(acting: Sequence[Acting]) -> Iterator[Segment]:
    start = 0
    for row in range(1, len(acting) + 1):
        if row == len(acting) or acting[row] != acting[start]:
            yield Segment(start, row, acting[start])
            start = row
