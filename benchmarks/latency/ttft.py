"""`python -m benchmarks.latency.ttft --base FILE|FOLDER --adapters DIR`: time to first token on switching back
to an adapter.

Through the whole engine, one request at a time. Each round: a prompt on one adapter that nothing is known of (every
token is computed), a request on another adapter, then the first prompt with one token more, another adapter again, and
the prompt with a short next turn. Then the base is closed and opened again, both adapters are loaded, and the prompt
with one token more finds its beginning on disk. Ratios are to the first of the same run.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks.harness.bases import BASE_HELP, adapter_files, computed_by, open_base
from benchmarks.harness.machine import describe
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.events import Failed, Finished
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.engine.prefix_cache.cache import PrefixCache, PrefixWrite
from edgelora.store.prefixes.store import PrefixStore

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
    """An engine with two adapters in memory, opened anew in each round, and the prompts it is asked."""

    def __init__(
        self, start: Callable[[], Engine], adapters: tuple[AdapterRef, AdapterRef], *, warm: int, seed: int
    ) -> None:
        self._start = start
        self.engine = start()
        self.adapter, self.other = adapters
        self.warm = warm
        self._random = random.Random(seed)
        self._ids = count()
        self.cases = (
            Case("nothing warm: all is computed", warm + 1),
            Case("the same, 1 token more", 1),
            Case(f"the same, a next turn of {NEXT_TURN} tokens", NEXT_TURN),
            Case("the same after a restart, from disk, 1 token more", 1),
        )
        self._load()

    def tokens(self, size: int) -> tuple[int, ...]:
        return tuple(self._random.choices(PLAIN_TOKENS, k=size))

    def round(self) -> None:
        prompt = self.tokens(self.warm)
        cold, more, turn, disk = self.cases
        keep = PrefixWrite(frozenset({AdapterUse(self.adapter).key}), prompt)
        cold.seconds.append(self.ask(self.adapter, prompt + self.tokens(1), cached=0, keep=keep))
        keep.done.result()  # nothing is written beside the next ones
        for case in (more, turn):
            self.ask(self.other, self.tokens(8), cached=0)
            case.seconds.append(self.ask(self.adapter, prompt + self.tokens(case.new), cached=self.warm))
        self.engine.close()
        self.engine = self._start()
        self._load()
        disk.seconds.append(self.ask(self.adapter, prompt + self.tokens(1), cached=self.warm))

    def _load(self) -> None:
        for adapter in (self.adapter, self.other):
            self.ask(adapter, self.tokens(8), cached=0)

    def ask(
        self, adapter: AdapterRef, prompt: tuple[int, ...], *, cached: int, keep: PrefixWrite | None = None
    ) -> float:
        """Seconds to the first token. `keep`: what of it goes to disk.

        Raises RuntimeError where not just `cached` tokens were warm.
        """
        request = Request(f"r{next(self._ids)}", prompt, (AdapterUse(adapter),), SamplingParams(max_tokens=1))
        *_, last = self.engine.submit(request, keep=keep)
        if isinstance(last, Failed):
            raise last.error
        if not isinstance(last, Finished) or last.usage.cached_tokens != cached:
            raise RuntimeError(f"{last}: {cached} tokens should have been warm")
        return last.timings.first_token


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    with adapter_files(options.adapters, options.base, 2) as paths:
        if len(paths) < 2:
            print(f"There are no two adapters (*.gguf) in {options.adapters}.")
            return 2
        return _measure(options, paths)


def _measure(options: argparse.Namespace, paths: Sequence[Path]) -> int:
    first, second = (AdapterRef(path.stem, path.stem, path, path.stat().st_size) for path in paths)
    with tempfile.TemporaryDirectory(prefix="edgelora-ttft-", dir=options.disk) as folder:
        store = PrefixStore(Path(folder), budget_bytes=1 << 40)
        bench = Bench(lambda: _start(options, store), (first, second), warm=options.warm, seed=options.seed)
        try:
            for _ in range(options.rounds):
                bench.round()
        finally:
            bench.engine.close()
        nbytes = max(entry.held.nbytes for entry in store.entries())
    _print(bench, options, nbytes)
    return 0


def _start(options: argparse.Namespace, store: PrefixStore) -> Engine:
    length = options.warm + 64
    settings = BackendOptions(
        context_length=length, max_sequences=4, max_slots=2, threads=options.threads, kv_cells=4 * length
    )
    backend = open_base(options.base, settings)
    cache = PrefixCache(store, options.base, kv=backend.kv_identity, template=64 * "0")
    cache.know_base()  # read once, before anything is timed
    return Engine(backend, adapter_budget_bytes=1 << 40, max_queue=1, prefixes=cache)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency.ttft", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", type=Path, required=True, help=BASE_HELP)
    parser.add_argument("--adapters", type=Path, required=True, help="a folder of two GGUF adapters for it or more")
    parser.add_argument("--warm", type=int, default=256, help="tokens that are warm (default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--threads", type=int, default=None, help="compute threads (default: physical cores)")
    parser.add_argument("--disk", type=Path, default=None, help="where to keep KV (default: the temporary folder)")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts (default 0)")
    return parser.parse_args(arguments)


def _print(bench: Bench, options: argparse.Namespace, nbytes: int) -> None:
    cold = bench.cases[0]
    rounds = f"median of {options.rounds} rounds; {nbytes / 1e6:.1f} MB on disk"
    print(f"\n{options.base.name}, {computed_by(options.base)}; {bench.warm} warm tokens; {rounds}\n")
    print("| request | tokens computed | ms to the first token | of all computed |")
    print("|---|---:|---:|---:|")
    for case in bench.cases:
        print(f"| {case.name} | {case.new} | {case.median * 1e3:.1f} | 1/{cold.median / case.median:.1f} |")
    print(f"\n{describe()}")


if __name__ == "__main__":
    raise SystemExit(main())
