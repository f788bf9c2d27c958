"""Driving a backend by hand: several sequences, each with its own adapter, computed in shared steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Applied, Backend, Chunk
from tests.support.uses import applied

Logits = NDArray[np.float32]


@dataclass
class Lane:
    """One sequence: its tokens so far, how many of them are computed, and all logits that were wanted."""

    sequence: int
    slot: int | None
    """Of an adapter at full weight from the start."""
    tokens: list[int]
    more: tuple[Applied, ...] = ()
    """What acts besides."""
    done: int = 0
    logits: Logits | None = None
    history: list[Logits] = field(default_factory=list)

    def chunk(self, size: int, *, logits: int = 1) -> Chunk:
        tokens = tuple(self.tokens[self.done : self.done + size])
        adapters = applied(self.slot) + self.more
        return Chunk(sequence=self.sequence, position=self.done, tokens=tokens, adapters=adapters, logits=logits)


def advance(backend: Backend, chunks: Iterable[tuple[Lane, Chunk]]) -> None:
    """One step; the lanes' counts and logits follow."""
    pairs = list(chunks)
    for (lane, chunk), logits in zip(pairs, backend.step([chunk for _, chunk in pairs]), strict=True):
        lane.done += len(chunk.tokens)
        lane.logits = None if logits is None else logits[-1]
        lane.history.extend(() if logits is None else logits)


def generate(backend: Backend, lanes: Sequence[Lane], *, steps: int, chunk: int = 64) -> list[list[int]]:
    """Prefill every lane in chunks of at most `chunk` tokens and decode `steps` greedy tokens each, all side by side.

    Returns the new tokens of each lane; the logits they were taken from are in its history.
    """
    prompts = [len(lane.tokens) for lane in lanes]
    while live := [lane for lane, start in zip(lanes, prompts, strict=True) if len(lane.tokens) < start + steps]:
        advance(backend, [(lane, lane.chunk(chunk)) for lane in live])
        for lane in live:
            if lane.done == len(lane.tokens) and lane.logits is not None:
                lane.tokens.append(int(lane.logits.argmax()))
    for lane in lanes:
        backend.clear(lane.sequence)
    return [lane.tokens[start:] for lane, start in zip(lanes, prompts, strict=True)]


def once(backend: Backend, tokens: Sequence[int], slot: int | None, *, sequence: int = 0) -> Logits:
    """Logits after `tokens` in a fresh sequence, which is cleared again."""
    lane = Lane(sequence, slot, list(tokens))
    advance(backend, [(lane, lane.chunk(len(tokens)))])
    backend.clear(sequence)
    assert lane.logits is not None
    return lane.logits


def distance(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference as a fraction of the largest expected magnitude."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
