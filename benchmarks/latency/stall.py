"""`python -m benchmarks.latency.stall --base FILE|FOLDER`: the gaps between one answer's tokens while a long
prompt arrives.

One sequence decodes; then a prompt of 1,000 tokens is submitted to the same engine. Every step until that prompt is
done carries the first sequence's next token, so a step's time is the gap its reader sees. Reported as p99 (and worst)
gap by the median step without company, how long the newcomer waited for its first token, and in what pieces its prompt
was computed. `--again` submits as long a prompt once more: by then the machine is known.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.bases import BASE_HELP, computed_by, open_base
from benchmarks.harness.endless import EndlessTokenizer
from benchmarks.harness.machine import describe
from edgelora.backends.base import Backend, Chunk
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.events import Finished
from edgelora.core.request import Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine

ALONE = 40
"""Tokens decoded without company first."""


class TimedBackend:
    """A backend that notes (seconds, tokens) of every step. Everything else is the real one's."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.tokenizer = EndlessTokenizer(backend.tokenizer)
        self.steps: list[tuple[float, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        began = time.perf_counter()
        logits = self._backend.step(chunks)
        self.steps.append((time.perf_counter() - began, sum(len(chunk.tokens) for chunk in chunks)))
        return logits


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency.stall", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", type=Path, required=True, help=BASE_HELP)
    parser.add_argument("--prompt", type=int, default=1000, help="tokens of the long prompt (default 1000)")
    parser.add_argument("--again", action="store_true", help="measure a second long prompt, too")
    options = parser.parse_args(arguments)
    context = 4 * options.prompt + 512  # The reader goes on as long as the prompts take.
    settings = BackendOptions(context_length=context, max_sequences=2)
    timed = TimedBackend(open_base(options.base, settings))
    engine = Engine(timed, adapter_budget_bytes=1, max_queue=4)
    try:
        alone = start_reader(engine, timed)
        stalls = [measure(engine, timed, options.prompt, number=n) for n in range(1 + options.again)]
        report(alone, stalls, prompt=options.prompt)
    finally:
        engine.close(timeout=60.0)
    print(f"\n{options.base.name}, {computed_by(options.base)}; {describe()}")
    return 0


@dataclass(frozen=True, slots=True)
class Stall:
    """What one long prompt did."""

    gaps: list[float]
    """Seconds of the steps while it was computed."""
    pieces: list[int]
    """Tokens of it in each of them."""
    first_token: float
    """Seconds that the newcomer waited."""


def start_reader(engine: Engine, timed: TimedBackend) -> list[float]:
    """Seconds of each step while it decodes alone."""
    engine.submit(Request("reader", (1, 2, 3, 4), (), SamplingParams()))
    while len(timed.steps) < ALONE:
        time.sleep(0.01)
    return [seconds for seconds, tokens in timed.steps[1:] if tokens == 1]


def measure(engine: Engine, timed: TimedBackend, prompt: int, *, number: int) -> Stall:
    before = len(timed.steps)
    tokens = tuple(5 + (n + 50 * number) % 200 for n in range(prompt))
    newcomer = engine.submit(Request(f"newcomer{number}", tokens, (), SamplingParams(max_tokens=1)))
    finished = [event for event in newcomer if isinstance(event, Finished)]
    beside = [(seconds, rows) for seconds, rows in timed.steps[before:] if rows > 1]
    gaps, pieces = [seconds for seconds, _ in beside], [rows - 1 for _, rows in beside]
    return Stall(gaps, pieces, finished[0].timings.first_token)


def report(alone: list[float], stalls: list[Stall], *, prompt: int) -> None:
    step = statistics.median(alone)
    print(
        f"\n| step alone | p99 gap while {prompt} tokens arrive | p99 / step | worst / step | steps |"
        " newcomer's first token | pieces (tokens x steps) |"
    )
    print("|---:|---:|---:|---:|---:|---:|---|")
    for stall in stalls:
        p99, worst = float(np.quantile(stall.gaps, 0.99)), max(stall.gaps)
        pieces = ", ".join(f"{size} x {count}" for size, count in sorted(Counter(stall.pieces).items()))
        print(
            f"| {step * 1e3:.1f} ms | {p99 * 1e3:.1f} ms | {p99 / step:.2f} | {worst / step:.2f} | {len(stall.gaps)}"
            f" | {stall.first_token:.2f} s | {pieces} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
