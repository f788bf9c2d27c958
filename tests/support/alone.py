"""A request computed alone, token by token along the path that was taken, and how far another way to it was off.

The prompt is one step and each later token another, in a backend that does nothing else: no batch, no chunks, no reuse.
Following the tokens that were really chosen keeps every position comparable, also behind a tie that fell the other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Applied, Backend, Chunk, Loaded
from edgelora.core.request import Request

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bound:
    """How far off a position may be, in deviations of its own logits."""

    worst: float = float("inf")
    """Any one logit; and how far below the likeliest the chosen token may be."""
    square: float = float("inf")
    """The root mean square over all logits."""

    def times(self, factor: float) -> Bound:
        return Bound(self.worst * factor, self.square * factor)


@dataclass
class Tally:
    """What many comparisons came to, in the same unit."""

    worst: list[float] = field(default_factory=list)
    """Of each position the largest difference of a logit."""
    squares: list[float] = field(default_factory=list)
    """Of each position the root mean square difference."""
    flips: list[float] = field(default_factory=list)
    """For each token that is not the likeliest alone, how far below that it is."""

    @property
    def bound(self) -> Bound:
        """What was seen at worst."""
        return Bound(max(self.worst), max(self.squares))


class Alone:
    """Owns its backend's sequence 0 and all its slots."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._loaded: dict[Path, Loaded] = {}

    def compare(self, request: Request, chosen: Sequence[tuple[int, Logits]], tally: Tally, *, bound: Bound) -> None:
        """Raises AssertionError where a position is further off than `bound`."""
        slots = self._attach(request)
        try:
            for (token, logits), alone in zip(chosen, self._logits(request, slots, chosen), strict=True):
                _compare(alone, logits, token, tally, bound=bound)
        finally:
            self._backend.clear(0)
            for applied in slots:
                self._backend.detach(applied.slot)

    def _logits(
        self, request: Request, slots: tuple[Applied, ...], chosen: Sequence[tuple[int, Logits]]
    ) -> Iterator[Logits]:
        tokens, done = list(request.prompt), 0
        for token, _ in chosen:
            chunk = Chunk(sequence=0, position=done, tokens=tuple(tokens[done:]), adapters=slots, logits=1)
            (rows,) = self._backend.step([chunk])
            assert rows is not None
            yield rows[-1]
            done = len(tokens)
            tokens.append(token)

    def _attach(self, request: Request) -> tuple[Applied, ...]:
        for slot, use in enumerate(request.adapters):
            loaded = self._loaded.get(use.ref.path) or self._backend.load(use.ref.path)
            self._loaded[use.ref.path] = loaded
            self._backend.attach(slot, loaded)
        return tuple(Applied(slot, use.weight, use.start) for slot, use in enumerate(request.adapters))


def _compare(alone: Logits, logits: Logits, token: int, tally: Tally, *, bound: Bound) -> None:
    spread = float(alone.std())
    difference = np.abs(logits - alone) / spread
    worst, square = float(difference.max()), float(np.sqrt((difference**2).mean()))
    margin = float(alone.max() - alone[token]) / spread
    assert worst <= bound.worst, f"a logit is off by {worst:.2g} deviations; the noise is {bound.worst:.2g}"
    assert square <= bound.square, f"the logits are off by {square:.2g} deviations; the noise is {bound.square:.2g}"
    assert margin <= bound.worst, f"token {token} was chosen, {margin:.2g} deviations below the likeliest"
    tally.worst.append(worst)
    tally.squares.append(square)
    if margin > 0:
        tally.flips.append(margin)
