"""`python -m benchmarks.throughput.mixed --base FILE --adapters DIR [--against PATH]`: 8 requests on 8
adapters, end to end.

Over HTTP, all sent at once: prompts of 32 random tokens, answers of 32, in a real `edgelora serve` process and, with
`--against`, in a llama-server that has the same adapters from its start; and as many requests on the base alone. The
cases take turns in changing order, one after the other on an otherwise idle machine. Memory: resident set of each
process with the base alone, and with all adapters in use.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.bases import mlx_here
from benchmarks.harness.client import send_on_time
from benchmarks.harness.homes import Home, make_home
from benchmarks.harness.machine import describe
from benchmarks.harness.report import Figures, figures
from benchmarks.harness.targets import EdgeloraServer, Limits, LlamaServer, Memory, memory_of
from benchmarks.harness.workload import Job


@dataclass
class Case:
    """Requests to one server, on the adapters or on the base; what each round brought."""

    server: EdgeloraServer | LlamaServer
    adapters: int
    found: list[Figures] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Tokens a second of each round."""
        return [figures.tokens_per_second for figures in self.found]

    @property
    def median(self) -> float:
        return statistics.median(self.speeds)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    limits = Limits(options.context, options.requests, options.threads)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as servers:
        home = make_home(Path(scratch), options.requests, base=options.base, folder=options.adapters)
        bench = Bench(options, home)
        before = {}
        if options.against is not None:
            with LlamaServer(options.against, home.base, (), limits) as alone:
                bench.round([Case(alone, 0)])
                before[alone.name] = memory_of(alone.pid)
        running: list[EdgeloraServer | LlamaServer] = [
            servers.enter_context(
                EdgeloraServer(home.path, home.names, limits, environ={"EDGELORA_BACKEND": options.backend})
            )
        ]
        bench.round([Case(running[0], 0)])
        before[running[0].name] = memory_of(running[0].pid)
        if options.against is not None:
            running.append(servers.enter_context(LlamaServer(options.against, home.base, home.files(), limits)))
        # The first round warms up: adapters are loaded, files read.
        bench.round([Case(server, adapters) for server in running for adapters in (0, options.requests)])
        cases = [Case(server, adapters) for server in running for adapters in (options.requests, 0)]
        for _ in range(options.rounds):
            bench.round(cases)
        after = {server.name: memory_of(server.pid) for server in running}
    computed_by = mlx_here() if options.backend == "mlx" else f"backend {options.backend}"
    print_speed(cases, options.requests)
    print_memory(before, after, options.requests)
    print(
        f"\n{'the built-in base' if options.base is None else options.base.name}; {options.requests} requests at once,"
        f" {options.prompt} tokens of prompt and {options.tokens} of answer each; medians of {options.rounds} rounds in"
        f" changing order; {computed_by}; {describe()}"
    )
    return 0


class Bench:
    def __init__(self, options: argparse.Namespace, home: Home) -> None:
        self._options = options
        self._tokenizer = home.tokenizer
        self._random = random.Random(options.seed)

    def round(self, cases: Sequence[Case]) -> None:
        """Each case once, in another order each time. Raises RuntimeError where an answer is missing or too short."""
        for case in self._random.sample(cases, len(cases)):
            jobs = self._jobs(case.adapters)
            exchanges = asyncio.run(send_on_time(jobs, case.server.port, case.server.write))
            found = figures((exchange, case.server.read(exchange)) for exchange in exchanges)
            if found.tokens != sum(job.output for job in jobs):
                message = [(exchange.status, exchange.error, exchange.frames[-1:]) for exchange in exchanges]
                raise RuntimeError(f"{case.server.name} gave {found.tokens} tokens: {message}")
            case.found.append(found)

    def _jobs(self, adapters: int) -> list[Job]:
        """Prompts that nobody has seen before."""
        options = self._options
        return [
            Job(
                at=0.0,
                adapter=number if adapters else None,
                prompt=tuple(self._random.choices(self._tokenizer, k=options.prompt)),
                output=options.tokens,
            )
            for number in range(options.requests)
        ]


def print_speed(cases: Sequence[Case], requests: int) -> None:
    print("\n| server | requests | tok/s | the rounds | all answered in | first token p50 | to edgelora's |")
    print("|---|---|---:|---|---:|---:|---:|")
    for case in cases:
        ours = next(other for other in cases if other.adapters == case.adapters)
        row = [
            case.server.name,
            f"{requests} on {case.adapters} adapters" if case.adapters else f"{requests} on the base",
        ]
        row += [f"{case.median:.2f}", ", ".join(f"{speed:.2f}" for speed in case.speeds)]
        row += [f"{statistics.median(found.seconds for found in case.found):.2f} s"]
        row += [f"{statistics.median(found.first_p50 for found in case.found):.2f} s"]
        row += [f"{statistics.median(map(_ratio, ours.speeds, case.speeds)):.2f}"]
        print(f"| {' | '.join(row)} |")
    print("\nLast column: edgelora's tokens a second by this row's on the same work, median over the rounds.")


def print_memory(before: dict[str, Memory], after: dict[str, Memory], adapters: int) -> None:
    columns = ("resident, base alone", f"with {adapters} adapters", "more", "of no file, base alone", "with", "more")
    print(f"\n| server | {' | '.join(columns)} |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, end in after.items():
        start = before[name]
        row = [name, *_growth(start.resident, end.resident), *_growth(start.anonymous, end.anonymous)]
        print(f"| {' | '.join(row)} |")


def _growth(start: int, end: int) -> list[str]:
    return [f"{start / 1e6:.1f} MB", f"{end / 1e6:.1f} MB", f"{(end - start) / 1e6:+.1f} MB"]


def _ratio(one: float, other: float) -> float:
    return one / other


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput.mixed", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--base", type=Path, help="a GGUF base (see benchmarks.harness.make_base; default: the built-in one)")
    add("--adapters", type=Path, help="a folder of GGUF adapters for it")
    add("--against", type=Path, help="a llama-server binary")
    add("--requests", type=int, default=8, help="requests at once, each on an adapter of its own (default 8)")
    add("--prompt", type=int, default=32, help="tokens of a prompt (default 32)")
    add("--tokens", type=int, default=32, help="tokens of an answer (default 32)")
    add("--rounds", type=int, default=3, help="rounds of all cases (default 3)")
    add("--threads", type=int, default=None, help="compute threads (default: each server's own)")
    add("--context", type=int, default=1024, help="tokens of one sequence; the KV holds two such (default 1024)")
    add("--seed", type=int, default=0, help="of the prompts and the order (default 0)")
    add("--backend", choices=["auto", "mlx", "llama.cpp"], default="auto", help="what computes (default auto)")
    options = parser.parse_args(arguments)
    if options.backend == "mlx" and options.base is not None:
        parser.error("--backend mlx is for the built-in base here: GGUF adapters are adopted for llama.cpp alone")
    if (options.base is None) != (options.adapters is None):
        parser.error("--base and --adapters go together")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
