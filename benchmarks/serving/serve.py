"""`python -m benchmarks.serving.serve`: EdgeLoRA's published workload over HTTP against a real `edgelora
serve` process.

Gamma arrivals (cv 1.5), power-law choice of the adapter, prompts of 8 to 128 random tokens, answers of 8 to 256 that do
not end of themselves. The client sends each request at its time, whatever has become of the others, and counts from
that time. Rates are parts of the capacity measured first, with as many requests always under way as twice the batch.
With `--against` a llama-server does the same work, at the same rates, before or after it.

On the built-in base the adapters are random ones of rank 8, really installed; with `--base` those of `--adapters`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from benchmarks.harness.client import Exchange, keep_busy, send_on_time
from benchmarks.harness.homes import Home, make_home
from benchmarks.harness.machine import describe
from benchmarks.harness.report import Figures, figures
from benchmarks.harness.targets import EdgeloraServer, Limits, LlamaServer, Target
from benchmarks.harness.workload import INPUT_TOKENS, OUTPUT_TOKENS, SLO_SECONDS, Job, Workload

COLUMNS = (
    "server", "adapters", "alpha", "offered req/s", "jobs", "refused (429)", "lost",
    f"first token in {SLO_SECONDS:g} s", "req/s", "tok/s",
    "first token p50", "p99", "gap p50", "gap p99", "adapter loads", "evictions",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, options.home or Path(scratch))
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * 3}{'---:|' * (len(COLUMNS) - 3)}")
        for adapters in options.counts:
            bench.run(adapters)
    print(
        f"\n{bench.base}; {options.sequences} sequences of {options.context} tokens; {options.seconds:g} s of arrivals"
        f" each, seed {options.seed}; the client was at most {bench.late * 1e3:.0f} ms late; {describe()}"
    )
    return 0


class Bench:
    """Every case is a process of its own: nothing is warm from the one before."""

    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self._options = options
        self._path = home
        self._limits = Limits(options.context, options.sequences, options.threads)
        self.base = "the built-in base" if options.base is None else options.base.name
        self.late = 0.0

    def run(self, adapters: int) -> None:
        """All cases with so many adapters."""
        options, home = self._options, self._home(adapters)
        rates = options.rates
        if rates is None:
            capacity = self._capacity(home, adapters)
            rates = [load * capacity for load in options.loads]
        for alpha in options.alphas:
            for rate in rates:
                self._compare(home, Workload(adapters, alpha, rate, options.inputs, options.outputs))

    def _home(self, adapters: int) -> Home:
        return make_home(self._path, adapters, base=self._options.base, folder=self._options.adapters)

    def _servers(self, home: Home) -> Iterator[Callable[[], EdgeloraServer | LlamaServer]]:
        yield lambda: EdgeloraServer(home.path, home.names, self._limits)
        if self._options.against is not None:
            yield lambda: LlamaServer(self._options.against, home.base, home.files(), self._limits)

    def _capacity(self, home: Home, adapters: int) -> float:
        """Requests a second edgelora answers while there is always another one waiting; uniform choice."""
        found = [self._saturate(start, home, adapters) for start in self._servers(home)]
        return found[0]

    def _saturate(self, start: Callable[[], EdgeloraServer | LlamaServer], home: Home, adapters: int) -> float:
        options = self._options
        workload = Workload(adapters, 1.0, 1.0, options.inputs, options.outputs)
        jobs = endless_jobs(workload, home.tokenizer, seed=options.seed + 1)
        with start() as server:
            warm_up(server, home)
            width, seconds = 2 * options.sequences, options.capacity_seconds
            done = asyncio.run(keep_busy(jobs, server.port, server.write, width=width, seconds=seconds))
            result = _read(server, done)
        self._print(server, adapters, "1", "as many as it takes", result)
        return result.requests_per_second

    def _compare(self, home: Home, workload: Workload) -> None:
        options = self._options
        jobs = workload.jobs(seconds=options.seconds, tokenizer=home.tokenizer, seed=options.seed)
        if not jobs:
            raise SystemExit(f"At {workload.rate:.3g} requests a second none comes within {options.seconds:g} s.")
        for start in self._servers(home):
            with start() as server:
                warm_up(server, home)
                result = _read(server, asyncio.run(send_on_time(jobs, server.port, server.write)))
            self.late = max(self.late, result.late)
            self._print(server, workload.adapters, f"{workload.alpha:g}", f"{workload.rate:.2f}", result)

    def _print(self, server: Target, adapters: int, alpha: str, offered: str, found: Figures) -> None:
        """A row; a stopped edgelora says what its adapters did."""
        loads = [str(number) for number in _counts(server)]
        row = [server.name, str(adapters), alpha, offered, f"{found.jobs}", f"{found.refused}", f"{found.lost}"]
        row += [f"{found.attainment:.1%}", f"{found.requests_per_second:.2f}", f"{found.tokens_per_second:.1f}"]
        row += [f"{found.first_p50:.2f} s", f"{found.first_p99:.2f} s"]
        row += [f"{found.gap_p50 * 1e3:.1f} ms", f"{found.gap_p99 * 1e3:.1f} ms", *loads]
        print(f"| {' | '.join(row)} |", flush=True)


def warm_up(server: Target, home: Home) -> None:
    """One request on the base alone, so that neither server reads its base from the disk within the time measured."""
    job = Job(0.0, None, tuple(home.tokenizer[:8]), 2)
    asyncio.run(send_on_time([job], server.port, server.write))


def endless_jobs(workload: Workload, tokenizer: range, *, seed: int) -> Iterator[Job]:
    for block in count(seed):
        yield from workload.jobs(seconds=100.0, tokenizer=tokenizer, seed=block)


def _read(server: Target, exchanges: list[Exchange]) -> Figures:
    return figures((exchange, server.read(exchange)) for exchange in exchanges)


def _counts(server: Target) -> tuple[int, int] | tuple[str, str]:
    return server.counts if isinstance(server, EdgeloraServer) else ("", "")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.serve", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--counts", type=_numbers, default=[50, 1000], help="adapters installed (default 50,1000)")
    add("--alphas", type=_floats, default=[0.1, 0.5, 1.0], help="of the power law (default 0.1,0.5,1)")
    add("--loads", type=_floats, default=[0.5, 0.8, 1.2], help="rates as parts of the capacity (default 0.5,0.8,1.2)")
    add("--rates", type=_floats, default=None, help="rates in requests a second, instead of measuring the capacity")
    add("--seconds", type=float, default=60.0, help="of arrivals in each case (default 60)")
    add("--capacity-seconds", type=float, default=30.0, help="of measuring the capacity (default 30)")
    add("--inputs", type=_pair, default=INPUT_TOKENS, help="tokens of a prompt (default 8,128)")
    add("--outputs", type=_pair, default=OUTPUT_TOKENS, help="tokens of an answer (default 8,256)")
    add("--seed", type=int, default=0, help="of the workload (default 0)")
    add("--home", type=Path, help="folder that keeps the installed adapters for the next run (default: none)")
    add("--base", type=Path, help="another GGUF base (see benchmarks.harness.make_base)")
    add("--adapters", type=Path, help="a folder of GGUF adapters for it")
    add("--against", type=Path, help="a llama-server binary")
    add("--threads", type=int, default=None, help="compute threads (default: each server's own)")
    add("--context", type=int, default=2048, help="tokens of one sequence; the KV holds two such (default 2048)")
    add("--sequences", type=int, default=8, help="answers computed side by side (default 8)")
    options = parser.parse_args(arguments)
    if (options.base is None) != (options.adapters is None):
        parser.error("--base and --adapters go together")
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _pair(text: str) -> tuple[int, int]:
    low, high = _numbers(text)
    return low, high


if __name__ == "__main__":
    raise SystemExit(main())
