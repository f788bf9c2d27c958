"""`python -m benchmarks.latency.swap --base FILE --adapters DIR`: what it costs to go on with another adapter
in memory.

Attaching and detaching are timed alone. Then one-row steps of sequences that hold equally many tokens, each after a
step of its like or of another kind, in changing order, so that what follows what is all that differs: the same sequence
again; another sequence; another adapter; a copied beginning, as after a switch back; a step of many rows before it; no
work before it. Ratios are to staying.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.adapters import mapped_copies
from benchmarks.harness.machine import describe
from edgelora.backends.base import Applied, Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header

MANY = 16
"""Rows of the step of many rows."""
SLEEP = 0.2
"""Seconds without work: longer than threads spin."""
BASE, SAME, OTHER, ALIKE, PROMPT, COPY = range(6)
"""Sequences: the base's, two of the first adapter, one of the second, one for steps of many rows, one for copies."""
FIRST, SECOND = 0, 1
"""Slots."""


@dataclass
class Case:
    name: str
    before: Callable[[Bench], None]
    """Done before every timed step."""
    sequence: int
    seconds: list[float] = field(default_factory=list)


class Bench:
    """One backend and what each of its sequences is computed with."""

    def __init__(self, backend: LlamaCppBackend, *, held: int) -> None:
        """`held`: tokens every sequence holds; each step's token is cut off again."""
        self.backend = backend
        self.held = held
        self.slots: dict[int, int | None] = {BASE: None, SAME: FIRST, ALIKE: FIRST, OTHER: SECOND, PROMPT: None}
        for sequence in self.slots:
            self._step(sequence, held, at=0)
        self.slots[COPY] = FIRST

    def one(self, sequence: int) -> float:
        """Seconds of a one-row step; the copy's with the copying."""
        began = time.perf_counter()
        if sequence == COPY:
            self.backend.copy(SAME, COPY, self.held)
        self._step(sequence, 1, at=self.held)
        seconds = time.perf_counter() - began
        self.backend.truncate(sequence, 0 if sequence == COPY else self.held)
        return seconds

    def many(self, sequence: int) -> None:
        self._step(sequence, MANY, at=self.held)
        self.backend.truncate(sequence, self.held)

    def _step(self, sequence: int, rows: int, *, at: int) -> None:
        slot = self.slots[sequence]
        applied = () if slot is None else (Applied(slot),)
        self.backend.step([Chunk(sequence, at, tuple(range(1000 + at, 1000 + at + rows)), applied, True)])


def _cases() -> list[Case]:
    def after(*sequences: int) -> Callable[[Bench], None]:
        return lambda bench: [bench.one(sequence) for sequence in sequences].clear()

    def after_many(bench: Bench) -> None:
        bench.one(SAME)
        bench.many(PROMPT)

    def after_sleep(bench: Bench) -> None:
        bench.one(SAME)
        time.sleep(SLEEP)

    return [
        Case("stay: the same sequence and adapter", after(SAME, SAME), SAME),
        Case("another sequence, the same adapter", after(ALIKE, ALIKE), SAME),
        Case("**switch: another sequence, another adapter**", after(OTHER, OTHER), SAME),
        Case("switch back to a copied beginning", after(OTHER, OTHER), COPY),
        Case("from the base to the adapter", after(BASE, BASE), SAME),
        Case(f"after a step of {MANY} rows of the base", after_many, SAME),
        Case(f"after {SLEEP} s without work", after_sleep, SAME),
        Case("the base alone, staying", after(BASE, BASE), BASE),
    ]


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    paths = sorted(options.adapters.glob("*.gguf"))[:2]
    if len(paths) < 2:
        print(f"There are no two adapters (*.gguf) in {options.adapters}.")
        return 2
    shape = read_shape(read_header(options.base))
    settings = BackendOptions(
        context_length=options.held + MANY,
        max_sequences=6,
        max_step_tokens=max(options.held, MANY),
        max_slots=3,
        kv_cells=6 * (options.held + MANY),
        threads=options.threads,
    )
    with mapped_copies(paths, shape) as copies:
        backend = LlamaCppBackend.open(options.base, shape=shape, settings=settings)
        for slot, path in enumerate(copies):
            backend.attach(slot, backend.load(path))
        _attaching(backend, copies[0])
        cases = _cases()
        _measure(Bench(backend, held=options.held), cases, options.rounds)
        _print(cases, options.held)
        backend.close()
    print(f"\n{describe()}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency.swap", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", type=Path, required=True, help="a GGUF base (see benchmarks.harness.make_base)")
    parser.add_argument("--adapters", type=Path, required=True, help="a folder of GGUF adapters for it")
    parser.add_argument("--rounds", type=int, default=25, help="timed steps of each case (default 25)")
    parser.add_argument("--held", type=int, default=32, help="tokens every sequence holds (default 32)")
    parser.add_argument("--threads", type=int, default=None, help="compute threads (default: physical cores)")
    return parser.parse_args(arguments)


def _attaching(backend: LlamaCppBackend, path: Path, *, times: int = 200) -> None:
    """An adapter whose arrays are in memory, into a free slot and out again."""
    loaded, attach, detach = backend.load(path), [], []
    for _ in range(times):
        began = time.perf_counter()
        backend.attach(2, loaded)
        attached = time.perf_counter()
        backend.detach(2)
        attach.append(attached - began)
        detach.append(time.perf_counter() - attached)
    print(f"\nmedian of {times}: attach {statistics.median(attach) * 1e3:.3f} ms,", end=" ")
    print(f"detach {statistics.median(detach) * 1e3:.3f} ms (its mapping stays: somebody else holds it)\n")


def _measure(bench: Bench, cases: Sequence[Case], rounds: int) -> None:
    order = random.Random(0)
    for number in range(rounds + 1):
        for case in order.sample(list(cases), len(cases)):
            case.before(bench)
            seconds = bench.one(case.sequence)
            if number:  # the first round brings the base's own pages in
                case.seconds.append(seconds)


def _print(cases: Sequence[Case], held: int) -> None:
    stay, fastest = statistics.median(cases[0].seconds), min(cases[0].seconds)
    print(f"median of {len(cases[0].seconds)} one-row steps of each, {held} tokens before them\n")
    print("| step | ms | more than staying, ms | of staying | fastest | more than staying, fastest |")
    print("|---|---:|---:|---:|---:|---:|")
    for case in cases:
        median, least = statistics.median(case.seconds), min(case.seconds)
        print(
            f"| {case.name} | {median * 1e3:.1f} | {(median - stay) * 1e3:+.2f} | {median / stay:.3f}"
            f" | {least * 1e3:.1f} | {(least - fastest) * 1e3:+.2f} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
