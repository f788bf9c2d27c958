"""`python -m benchmarks.stall --base FILE`: the gaps between one answer's tokens while a long prompt arrives.

One sequence decodes; then a prompt of 1,000 tokens is submitted to the same engine. Every step until that prompt is
done carries the first sequence's next token, so a step's time is the gap its reader sees. Reported as p99 (and worst)
gap by the median step without company, and how long the newcomer waited for its first token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.endless import EndlessVocabulary
from benchmarks.machine import describe
from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp import BackendOptions
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.core import Finished, Request, SamplingParams
from edgelora.engine import Engine
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header

ALONE = 40
"""Tokens decoded without company first."""


class TimedBackend:
    """A backend that notes (seconds, tokens) of every step. Everything else is the real one's."""

    def __init__(self, backend: LlamaCppBackend) -> None:
        self._backend = backend
        self.vocabulary = EndlessVocabulary(backend.vocabulary)
        self.steps: list[tuple[float, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        began = time.perf_counter()
        logits = self._backend.step(chunks)
        self.steps.append((time.perf_counter() - began, sum(len(chunk.tokens) for chunk in chunks)))
        return logits


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stall", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", type=Path, required=True, help="a GGUF base (see benchmarks.make_base)")
    parser.add_argument("--prompt", type=int, default=1000, help="tokens of the long prompt (default 1000)")
    options = parser.parse_args(arguments)
    shape = read_shape(read_header(options.base))
    settings = BackendOptions(context_length=options.prompt + 512, max_sequences=2)
    timed = TimedBackend(LlamaCppBackend.open(options.base, shape=shape, settings=settings))
    engine = Engine(timed, adapter_budget_bytes=1, max_queue=4)
    try:
        report(*measure(engine, timed, options.prompt), prompt=options.prompt)
    finally:
        engine.close(timeout=60.0)
    print(f"\n{options.base.name}; {describe()}")
    return 0


def measure(engine: Engine, timed: TimedBackend, prompt: int) -> tuple[list[float], list[float], float]:
    """(seconds of steps alone, seconds of steps while the prompt is computed, seconds to its first token)."""
    reader = engine.submit(Request("reader", (1, 2, 3, 4), (), SamplingParams()))
    while len(timed.steps) < ALONE:
        time.sleep(0.01)
    alone = [seconds for seconds, tokens in timed.steps[1:] if tokens == 1]
    before = len(timed.steps)
    newcomer = engine.submit(
        Request("newcomer", tuple(5 + n % 200 for n in range(prompt)), (), SamplingParams(max_tokens=1))
    )
    finished = [event for event in newcomer if isinstance(event, Finished)]
    beside = [seconds for seconds, tokens in timed.steps[before:] if tokens > 1]
    reader.cancel()
    return alone, beside, finished[0].timings.first_token


def report(alone: list[float], beside: list[float], first_token: float, *, prompt: int) -> None:
    step, p99, worst = statistics.median(alone), float(np.quantile(beside, 0.99)), max(beside)
    print(
        f"\n| step alone | p99 gap while {prompt} tokens arrive | p99 / step | worst / step | steps |"
        " newcomer's first token |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {step * 1e3:.0f} ms | {p99 * 1e3:.0f} ms | {p99 / step:.2f} | {worst / step:.2f} | {len(beside)}"
        f" | {first_token:.1f} s |"
    )


if __name__ == "__main__":
    raise SystemExit(main())
