"""A base opened to be timed: real steps on the llama.cpp backend, at whatever number of threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.model import Progress
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.config import Kernel, Weights
from edgelora.runtime.tuning.search import BATCH_ROWS, PROMPT_ROWS, Workload
from edgelora_models.shape import LlamaShape

HELD = 32
"""Tokens every timed answer holds already."""
ENOUGH_SECONDS = 0.02
"""A measurement of steps that are shorter is the median of several."""
MOST_STEPS = 15


class TimedBackend:
    """Implements `edgelora.runtime.tuning.search.Bench`. Owns a backend; close it."""

    def __init__(self, backend: LlamaCppBackend, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._backend = backend
        self._clock = clock
        for sequence in range(BATCH_ROWS):
            self._step([_chunk(sequence, 0, HELD)])

    @classmethod
    def open(
        cls, path: Path, *, shape: LlamaShape, weights: Weights, kernel: Kernel, progress: Progress | None
    ) -> TimedBackend:
        """Raises as `LlamaCppBackend.open`."""
        tokens = HELD + PROMPT_ROWS
        options = BackendOptions(
            context_length=tokens,
            max_sequences=BATCH_ROWS + 1,
            max_step_tokens=PROMPT_ROWS,
            max_slots=1,
            kv_cells=tokens * (BATCH_ROWS + 1),
            weights=weights,
            kernel=kernel,
        )
        return cls(LlamaCppBackend.open(path, shape=shape, settings=options, progress=progress))

    def seconds(self, work: Workload, threads: int) -> float:
        self._backend.set_threads(threads, threads)
        self._run(Workload.ONE)  # a new number of threads is started in the first step
        taken = [self._timed(work)]
        while sum(taken) < ENOUGH_SECONDS and len(taken) < MOST_STEPS:
            taken.append(self._timed(work))
        return statistics.median(taken)

    def close(self) -> None:
        self._backend.close()

    def _timed(self, work: Workload) -> float:
        began = self._clock()
        self._run(work)
        return self._clock() - began

    def _run(self, work: Workload) -> None:
        """Run one step, and forget its tokens again, which costs next to nothing."""
        if work is Workload.PROMPT:
            self._step([_chunk(BATCH_ROWS, 0, PROMPT_ROWS)])
            self._backend.clear(BATCH_ROWS)
            return
        sequences = range(1 if work is Workload.ONE else BATCH_ROWS)
        self._step([_chunk(sequence, HELD, 1) for sequence in sequences])
        for sequence in sequences:
            self._backend.truncate(sequence, HELD)

    def _step(self, chunks: list[Chunk]) -> None:
        self._backend.step(chunks)


def _chunk(sequence: int, position: int, count: int) -> Chunk:
    tokens = tuple(range(1, count + 1))  # any will do: what a step costs does not depend on them
    return Chunk(sequence=sequence, position=position, tokens=tokens, adapters=(), logits=1)
