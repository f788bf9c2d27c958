"""`python -m benchmarks.serving.http [--base FILE --adapters DIR]`: what HTTP costs over the engine, and what
a crowd does.

The same work three ways, in turns, on a base that each has open: asked of a `Service` in this process; of `edgelora
serve --engine in-process`, one connection for each request; and of `edgelora serve` as people run it, with the engine
in a process of its own. Time to the first token and time per token, one request at a time and several at once, on the
base and on adapters. Then requests per second of /v1/models on connections that are kept; then `--clients` clients at
once that ask without a pause: every reply must be 200, 429 or 503, a refusal must say when to come back, and the
server's memory must stay within GROWTH. Exit code 1 where it is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.harness.client import exchange
from benchmarks.harness.endless import never_ending
from benchmarks.harness.homes import Home, make_home
from benchmarks.harness.machine import describe
from benchmarks.harness.targets import EdgeloraServer, Limits
from benchmarks.harness.workload import Job
from benchmarks.serving.crowd import Crowd, models_per_second
from edgelora.core.config import read_settings
from edgelora.core.events import Failed, TextDelta
from edgelora.core.sampling_params import SamplingParams
from edgelora.runtime.opening import open as opening_open
from edgelora.runtime.service import Service

GROWTH = 64 << 20
"""Bytes that belong to no file, by which the crowd may make the server's processes grow."""
ENVIRON = {"EDGELORA_SPECULATE": "off", "EDGELORA_PREFIX_DISK": "0"}
"""Every way computes each token in a step of its own, and nothing is written."""
DIRECT, HTTP, CHILD = "Service", "HTTP", "HTTP, engine in its own process"


class Way(Protocol):
    """One way of having a job done."""

    async def ask(self, job: Job) -> list[float]:
        """Seconds from the asking to each token."""
        ...


@dataclass(frozen=True, slots=True)
class Direct:
    service: Service
    names: tuple[str, ...]

    async def ask(self, job: Job) -> list[float]:
        began = time.perf_counter()
        stream = await asyncio.to_thread(self._begin, job)
        times = []
        async for event in stream:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, TextDelta):
                times.append(time.perf_counter() - began)
        return times

    def _begin(self, job: Job) -> object:
        uses = () if job.adapter is None else self.service.compose(self.names[job.adapter])
        return self.service.complete(job.prompt, adapters=uses, sampling=SamplingParams(max_tokens=job.output))


@dataclass(frozen=True, slots=True)
class OverHttp:
    server: EdgeloraServer

    async def ask(self, job: Job) -> list[float]:
        found = await exchange(job, self.server.port, self.server.write(job), intended=time.monotonic())
        answer = self.server.read(found)
        if answer is None:
            raise RuntimeError(f"no answer: {found.status} {found.error}")
        return [at - found.sent for at in answer.times]


@dataclass
class Case:
    """Requests at once, on the base or on an adapter each; what every way took."""

    width: int
    adapters: bool
    first: dict[str, list[float]] = field(default_factory=dict)
    each: dict[str, list[float]] = field(default_factory=dict)
    """By way: seconds to the first token, and per token after it, of each request."""

    def note(self, way: str, times: Sequence[float]) -> None:
        self.first.setdefault(way, []).append(times[0])
        self.each.setdefault(way, []).append((times[-1] - times[0]) / (len(times) - 1))

    @property
    def label(self) -> str:
        if not self.adapters:
            return f"{self.width} on the base"
        return "1 on an adapter" if self.width == 1 else f"{self.width} on adapters"


class Bench:
    def __init__(self, options: argparse.Namespace, home: Home, ways: dict[str, Way]) -> None:
        self._options = options
        self._home = home
        self._ways = ways
        self._random = random.Random(options.seed)

    def round(self, case: Case, *, noted: bool = True) -> None:
        """Every way once, in another order each time. Raises RuntimeError where an answer is too short."""
        for way in self._random.sample(sorted(self._ways), len(self._ways)):
            for times in asyncio.run(self._ask(self._ways[way], case)):
                if len(times) < self._options.tokens:
                    raise RuntimeError(f"{way}: {len(times)} of {self._options.tokens} tokens")
                if noted:
                    case.note(way, times)

    async def _ask(self, way: Way, case: Case) -> list[list[float]]:
        jobs = [self._job(number if case.adapters else None) for number in range(case.width)]
        return list(await asyncio.gather(*(way.ask(job) for job in jobs)))

    def _job(self, adapter: int | None) -> Job:
        """Return a prompt that nobody has seen before."""
        prompt = tuple(self._random.choices(self._home.tokenizer, k=self._options.prompt))
        return Job(0.0, adapter, prompt, self._options.tokens)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    limits = Limits(options.context, options.width, options.threads)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as held:
        home = make_home(Path(scratch), options.width, base=options.base, folder=options.adapters)
        service = held.enter_context(_direct(home, limits))
        servers = {
            name: held.enter_context(EdgeloraServer(home.path, home.names, limits, engine=engine, environ=ENVIRON))
            for name, engine in ((HTTP, "in-process"), (CHILD, "child"))
        }
        ways: dict[str, Way] = {DIRECT: Direct(service, home.names)}
        ways |= {name: OverHttp(server) for name, server in servers.items()}
        bench = Bench(options, home, ways)
        cases = [Case(1, adapters=False), Case(1, adapters=True), Case(options.width, adapters=True)]
        for case in cases:
            bench.round(case, noted=False)  # adapters are loaded, code is read
        for _ in range(options.rounds):
            for case in cases:
                bench.round(case)
        print_overhead(cases, list(ways))
        print_models(service, servers[CHILD], seconds=options.seconds)
        crowd = Crowd(servers[CHILD], home, tokens=options.tokens, prompt=options.prompt, seed=options.seed)
        crowd.ask(clients=options.clients, seconds=options.seconds)
    print_crowd(crowd, options.clients)
    print(
        f"\n{'the built-in base' if options.base is None else options.base.name}; {options.prompt} tokens of prompt and"
        f" {options.tokens} of answer each; medians over {options.rounds} rounds in changing order; {describe()}"
    )
    wrong = crowd.wrong(growth=GROWTH)
    for one in wrong:
        print(one, file=sys.stderr)
    return 1 if wrong else 0


def _direct(home: Home, limits: Limits) -> Service:
    environ = {
        **ENVIRON,
        "EDGELORA_HOME": str(home.path),
        "EDGELORA_OFFLINE": "1",
        "EDGELORA_CONTEXT": str(limits.context),
        "EDGELORA_SEQUENCES": str(limits.sequences),
        "EDGELORA_THREADS": str(limits.threads or 0),
    }
    before: Callable[..., object] = opening_open.open_backend
    opening_open.open_backend = never_ending(opening_open.open_backend)
    try:
        return Service.open(read_settings(environ))
    finally:
        opening_open.open_backend = before  # type: ignore[assignment]  # the very function that was there


def print_overhead(cases: Sequence[Case], ways: Sequence[str]) -> None:
    columns = ("first token p50", "more than Service", "ratio", "ms a token", "more", "ratio")
    print(f"\n| requests at once | through | {' | '.join(columns)} |\n|---|---|{'---:|' * len(columns)}")
    for case in cases:
        for way in ways:
            row = [case.label, way, *_compared(case.first, way), *_compared(case.each, way)]
            print(f"| {' | '.join(row)} |")


def _compared(found: dict[str, list[float]], way: str) -> tuple[str, str, str]:
    own, direct = statistics.median(found[way]), statistics.median(found[DIRECT])
    return f"{own * 1e3:.2f} ms", f"{(own - direct) * 1e3:+.2f} ms", f"{own / direct:.3f}"


def print_models(service: Service, server: EdgeloraServer, *, seconds: float) -> None:
    print("\n| /v1/models | requests a second |\n|---|---:|")
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds / 2:
        service.models()
        calls += 1
    print(f"| Service.models(), no HTTP | {calls / (time.perf_counter() - began):.0f} |")
    for width in (1, 8):
        rate = models_per_second(server.port, connections=width, seconds=seconds / 2)
        print(f"| HTTP, {width} connection{'' if width == 1 else 's'} | {rate:.0f} |")


def print_crowd(crowd: Crowd, clients: int) -> None:
    statuses = Counter(found.status for found in crowd.exchanges)
    told = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    print(f"\n| {clients} clients at once | |\n|---|---:|")
    print(f"| replies | {told} |")
    print(f"| lost | {sum(not found.status or found.ended is None for found in crowd.exchanges)} |")
    print(f"| answered in, p50 / p99 | {crowd.quantile(200, 0.5):.3f} s / {crowd.quantile(200, 0.99):.3f} s |")
    print(f"| refused in, p50 / p99 | {crowd.quantile(429, 0.5):.3f} s / {crowd.quantile(429, 0.99):.3f} s |")
    names = ("before", "at most", "after")
    memory = " / ".join(f"{one.anonymous / 1e6:.1f}" for one in (crowd.before, crowd.most, crowd.after))
    print(f"| memory of no file, {' / '.join(names)} | {memory} MB |")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.http", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--base", type=Path, help="a GGUF base (see benchmarks.harness.make_base; default: the built-in one)")
    add("--adapters", type=Path, help="a folder of GGUF adapters for it")
    add("--width", type=int, default=8, help="requests at once where they are several (default 8)")
    add("--prompt", type=int, default=32, help="tokens of a prompt (default 32)")
    add("--tokens", type=int, default=32, help="tokens of an answer, at least 2 (default 32)")
    add("--rounds", type=int, default=5, help="rounds of all cases (default 5)")
    add("--clients", type=int, default=100, help="of the crowd (default 100)")
    add("--seconds", type=float, default=10.0, help="of the crowd, and of /v1/models (default 10)")
    add("--threads", type=int, default=None, help="compute threads (default: each its own)")
    add("--context", type=int, default=512, help="tokens of one sequence; the KV holds two such (default 512)")
    add("--seed", type=int, default=0, help="of the prompts and the order (default 0)")
    options = parser.parse_args(arguments)
    if (options.base is None) != (options.adapters is None):
        parser.error("--base and --adapters go together")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
