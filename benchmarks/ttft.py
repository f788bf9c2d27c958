"""`python -m benchmarks.ttft --base FILE --adapters DIR`: time to first token on switching back to an adapter.

Through the whole engine, one request at a time. Each round: a prompt on one adapter that nothing is known of (every
token is computed), a request on another adapter, then the first prompt with one token more, another adapter again, and
the prompt with a short next turn. Ratios are to the first of the same run.
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks.machine import describe
from edgelora.backends.llama_cpp import BackendOptions
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.core import AdapterRef, AdapterUse, Failed, Finished, Request, SamplingParams
from edgelora.engine import Engine
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header

NEXT_TURN = 16
"""Tokens of the short next turn."""
PLAIN_TOKENS = range(1000, 30_000)
"""Where the random prompts are drawn from: text in every Llama vocabulary of this size."""


@dataclass
class Case:
    name: str
    new: int
    """Tokens that are not warm."""
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Bench:
    """An engine with two adapters in memory, and the prompts it is asked."""

    def __init__(self, engine: Engine, adapters: tuple[AdapterRef, AdapterRef], *, warm: int, seed: int) -> None:
        self.engine = engine
        self.adapter, self.other = adapters
        self.warm = warm
        self._random = random.Random(seed)
        self._ids = count()
        self.cases = (
            Case("nothing warm: all is computed", warm + 1),
            Case("the same, 1 token more", 1),
            Case(f"the same, a next turn of {NEXT_TURN} tokens", NEXT_TURN),
        )
        for adapter in adapters:
            self.ask(adapter, self.tokens(8), cached=0)

    def tokens(self, size: int) -> tuple[int, ...]:
        return tuple(self._random.choices(PLAIN_TOKENS, k=size))

    def round(self) -> None:
        prompt = self.tokens(self.warm)
        cold, more, turn = self.cases
        cold.seconds.append(self.ask(self.adapter, prompt + self.tokens(1), cached=0))
        for case in (more, turn):
            self.ask(self.other, self.tokens(8), cached=0)
            case.seconds.append(self.ask(self.adapter, prompt + self.tokens(case.new), cached=self.warm))

    def ask(self, adapter: AdapterRef, prompt: tuple[int, ...], *, cached: int) -> float:
        """Seconds to the first token. Raises RuntimeError where not just `cached` tokens were warm."""
        request = Request(f"r{next(self._ids)}", prompt, (AdapterUse(adapter),), SamplingParams(max_tokens=1))
        *_, last = self.engine.submit(request)
        if isinstance(last, Failed):
            raise last.error
        if not isinstance(last, Finished) or last.usage.cached_tokens != cached:
            raise RuntimeError(f"{last}: {cached} tokens should have been warm")
        return last.timings.first_token


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    paths = sorted(options.adapters.glob("*.gguf"))[:2]
    if len(paths) < 2:
        print(f"There are no two adapters (*.gguf) in {options.adapters}.")
        return 2
    length = options.warm + 64
    settings = BackendOptions(
        context_length=length, max_sequences=4, max_slots=2, threads=options.threads, kv_cells=4 * length
    )
    backend = LlamaCppBackend.open(options.base, shape=read_shape(read_header(options.base)), settings=settings)
    engine = Engine(backend, adapter_budget_bytes=1 << 40, max_queue=1)
    try:
        first, second = (AdapterRef(path.stem, path.stem, path, path.stat().st_size) for path in paths)
        bench = Bench(engine, (first, second), warm=options.warm, seed=options.seed)
        for _ in range(options.rounds):
            bench.round()
    finally:
        engine.close()
    _print(bench, options)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ttft", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", type=Path, required=True, help="a GGUF base (see benchmarks.make_base)")
    parser.add_argument("--adapters", type=Path, required=True, help="a folder of two GGUF adapters for it or more")
    parser.add_argument("--warm", type=int, default=256, help="tokens that are warm (default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--threads", type=int, default=None, help="compute threads (default: physical cores)")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts (default 0)")
    return parser.parse_args(arguments)


def _print(bench: Bench, options: argparse.Namespace) -> None:
    cold = bench.cases[0]
    print(f"\n{options.base.name}; {bench.warm} warm tokens; median of {options.rounds} rounds\n")
    print("| request | tokens computed | ms to the first token | of all computed |")
    print("|---|---:|---:|---:|")
    for case in bench.cases:
        print(f"| {case.name} | {case.new} | {case.median * 1e3:.1f} | 1/{cold.median / case.median:.1f} |")
    print(f"\n{describe()}")


if __name__ == "__main__":
    raise SystemExit(main())
