"""`python -m benchmarks.throughput.decode --base FILE|FOLDER --adapters DIR`: what an adapter costs in a step,
and in prefill.

Every case runs in the same process on the same base, a few steps in turn, round after round, so that a slow minute of
the machine falls on all. The last column is the base's time by the case's time with as many sequences: 1.0 is free.
In llama.cpp that base runs on a context without any callback; in MLX on the same backend, in rows without adapters.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.harness.bases import BASE_HELP, adapter_files, computed_by, nbytes_of, open_base, shape_of
from benchmarks.harness.machine import describe
from edgelora.backends.base import Applied, Backend, Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.context import Context
from edgelora.backends.llama_cpp.graph_selftest import find_weights
from edgelora.backends.llama_cpp.lora_method import LoraMethod
from edgelora.backends.llama_cpp.model import Model
from edgelora.backends.llama_cpp.native_hook import NativeHookMethod
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.backends.llama_cpp.python_hook import PythonHookMethod
from edgelora.backends.llama_cpp.upstream_lora import UpstreamLoraMethod
from edgelora_models.shape import LlamaShape

WIDE = 8
"""Sequences of the wide cases, and adapters they use."""
PROMPT = 8
"""Tokens every sequence holds before it is timed."""
STEPS_PER_TURN = 4
LONG = 256
"""Tokens of a timed prefill."""
WAYS = ("no callback", "native", "numpy", "llama.cpp")
Ways = Mapping[str, tuple[Backend, int | None]]
"""What is timed, by name: on which backend, with the adapter of which slot."""


def applied(slot: int | None) -> tuple[Applied, ...]:
    return () if slot is None else (Applied(slot),)


@dataclass
class Case:
    """A fixed set of sequences decoding side by side, and the seconds of every step so far."""

    name: str
    backend: Backend
    first_sequence: int
    slots: tuple[int | None, ...]
    position: int = 0
    seconds: list[float] = field(default_factory=list)

    def prefill(self) -> None:
        self.backend.step(self._chunks(tuple(range(1, PROMPT + 1))))
        self.position = PROMPT
        self._decode()

    def turn(self) -> None:
        for _ in range(STEPS_PER_TURN):
            start = time.perf_counter()
            self._decode()
            self.seconds.append(time.perf_counter() - start)

    def _decode(self) -> None:
        self.backend.step(self._chunks((1 + self.position,)))
        self.position += 1

    def _chunks(self, tokens: tuple[int, ...]) -> list[Chunk]:
        return [
            Chunk(self.first_sequence + n, self.position, tokens, adapters=applied(slot), logits=True)
            for n, slot in enumerate(self.slots)
        ]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        """Noise only ever adds, so this is what a busy machine disturbs least."""
        return min(self.seconds)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    with adapter_files(options.adapters, options.base, WIDE) as paths:
        if not paths:
            print(f"There is no adapter (*.gguf) in {options.adapters}.")
            return 2
        rounds = -(-options.steps // STEPS_PER_TURN)
        (_mlx if options.base.is_dir() else _llama_cpp)(options, paths, rounds)
    print(f"\n{computed_by(options.base)}; {describe()}")
    return 0


def _mlx(options: argparse.Namespace, paths: Sequence[Path], rounds: int) -> None:
    """All cases on one backend, each on sequences of its own."""
    settings = replace(_settings(rounds, options.threads), max_sequences=2 + 3 * WIDE, kv_cells=None)
    backend = open_base(options.base, replace(settings, kv_cells=settings.max_sequences * settings.context_length))
    for slot, path in enumerate(paths):
        backend.attach(slot, backend.load(path))
    mixed = tuple(n % len(paths) for n in range(WIDE))
    cases = [
        Case("base", backend, 0, (None,)),
        Case("one adapter", backend, 1, (0,)),
        Case("base", backend, 2, (None,) * WIDE),
        Case(f"{len(paths)} adapters", backend, 2 + WIDE, mixed),
        Case("one adapter shared by all", backend, 2 + 2 * WIDE, (0,) * WIDE),
    ]
    _print(_measure(cases, rounds), options.base, settings)
    if options.prefills:
        ways: Ways = {"base": (backend, None), "one adapter": (backend, 0)}
        _print_prefill(_prefill(ways, options.prefills, sequences=settings.max_sequences))
    backend.close()


def _llama_cpp(options: argparse.Namespace, paths: Sequence[Path], rounds: int) -> None:
    shape = shape_of(options.base)
    model = Model.load(options.base, shape=shape, progress=None)
    settings = _settings(rounds, options.threads)
    backends = {way: _backend(model, shape, settings, way, paths) for way in WAYS}
    _print(_measure(_cases(backends, len(paths)), rounds), options.base, settings)
    if options.prefills:
        ways: Ways = {
            "base, no callback": (backends["no callback"], None),
            "one adapter, native kernel": (backends["native"], 0),
            "one adapter, numpy": (backends["numpy"], 0),
            "llama.cpp's own LoRA, one adapter": (backends["llama.cpp"], 0),
        }
        _print_prefill(_prefill(ways, options.prefills, sequences=settings.max_sequences))
    backends["llama.cpp"].detach(0)
    for backend in backends.values():
        backend.release()
    model.close()


class Shared(LlamaCppBackend):
    """One of several backends on one model."""

    def release(self) -> None:
        """Close the context alone."""
        for slot in tuple(self._ledger.attached):
            self.detach(slot)
        self._context.close()


def _backend(model: Model, shape: LlamaShape, settings: BackendOptions, way: str, paths: Sequence[Path]) -> Shared:
    hook = way in ("native", "numpy")
    options = replace(settings, method="hook" if hook else "native", kernel="numpy" if way == "numpy" else "auto")
    context = Context(model, options, vocab=shape.vocab)
    method: LoraMethod
    if not hook:
        method = UpstreamLoraMethod(model, context.handle, shape)
    else:
        weights = find_weights(context, shape, max_sequences=settings.max_sequences)
        if context.eval_callback.evaluator is None:
            method = PythonHookMethod(context.eval_callback, shape, weights)
        else:
            method = NativeHookMethod(context.eval_callback.evaluator, shape, weights, threads=context.threads_for)
    backend = Shared(model=model, context=context, method=method, options=options)
    for slot, path in enumerate({"no callback": [], "llama.cpp": paths[:1]}.get(way, paths)):
        backend.attach(slot, backend.load(path))
    return backend


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput.decode", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--base", type=Path, required=True, help=BASE_HELP)
    parser.add_argument("--adapters", type=Path, required=True, help="a folder of GGUF adapters for it")
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each case (default 40)")
    parser.add_argument("--threads", type=int, default=None, help="compute threads (default: physical cores)")
    parser.add_argument("--prefills", type=int, default=3, help="timed prefills of each case (default 3; 0: none)")
    return parser.parse_args(arguments)


def _settings(rounds: int, threads: int | None) -> BackendOptions:
    length = PROMPT + 1 + rounds * STEPS_PER_TURN
    sequences = 2 * (1 + WIDE)
    return BackendOptions(
        context_length=max(length, LONG),
        max_sequences=sequences,
        max_step_tokens=max(WIDE * PROMPT, LONG),
        max_slots=WIDE,
        threads=threads,
        kv_cells=length * sequences + LONG,
    )


def _cases(backends: Mapping[str, LlamaCppBackend], adapters: int) -> list[Case]:
    """Base and adapter have the same number of sequences, side by side, in each half."""
    plain, native, numpy, own = (backends[way] for way in WAYS)
    mixed = tuple(n % adapters for n in range(WIDE))
    wide, after = (None,) * WIDE, 2 + WIDE
    return [
        Case("base, no callback", plain, 0, (None,)),
        Case("base, callback idle", native, 0, (None,)),
        Case("one adapter, native kernel", native, 1, (0,)),
        Case("one adapter, numpy", numpy, 1, (0,)),
        Case("llama.cpp's own LoRA, one adapter", own, 0, (0,)),
        Case("base, no callback", plain, 2, wide),
        Case("base, callback idle", native, 2, wide),
        Case(f"{adapters} adapters, native kernel", native, after, mixed),
        Case(f"{adapters} adapters, numpy", numpy, after, mixed),
        Case("llama.cpp's own LoRA, one shared adapter", own, 2, (0,) * WIDE),
    ]


def _prefill(ways: Ways, repeats: int, *, sequences: int) -> dict[str, list[float]]:
    """Seconds of steps of LONG tokens into an empty sequence, in turns."""
    last = sequences - 1
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for backend, _ in ways.values():
        for sequence in range(sequences):
            backend.clear(sequence)
    order = random.Random(0)
    for _ in range(repeats):
        for name, (backend, slot) in order.sample(list(ways.items()), len(ways)):
            chunk = Chunk(last, 0, tuple(range(1, LONG + 1)), adapters=applied(slot), logits=True)
            start = time.perf_counter()
            backend.step([chunk])
            seconds[name].append(time.perf_counter() - start)
            backend.clear(last)
    return seconds


def _measure(cases: Sequence[Case], rounds: int) -> Sequence[Case]:
    for case in cases:
        case.prefill()
    # A machine is slower for a while after the wide cases: only what is compared takes turns, in changing order.
    order = random.Random(0)
    for count in sorted({len(case.slots) for case in cases}):
        compared = [case for case in cases if len(case.slots) == count]
        for _ in range(rounds):
            for case in order.sample(compared, len(compared)):
                case.turn()
    return cases


def _print(cases: Sequence[Case], base: Path, settings: BackendOptions) -> None:
    print(f"\n{base.name}, {nbytes_of(base) / 1e9:.2f} GB; threads: {settings.threads or 'physical cores'};")
    print(f"median of {len(cases[0].seconds)} steps in interleaved turns of {STEPS_PER_TURN}\n")
    print("| sequences | adapters | ms per step | tok/s | base time / its time | fastest step | base / its, fastest |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for case in cases:
        count = len(case.slots)
        alone = next(other for other in cases if len(other.slots) == count)
        row = [f"{case.median * 1e3:.1f}", f"{count / case.median:.2f}", f"{alone.median / case.median:.3f}"]
        row += [f"{case.fastest * 1e3:.1f}", f"{alone.fastest / case.fastest:.3f}"]
        print(f"| {count} | {case.name} | {' | '.join(row)} |")


def _print_prefill(seconds: Mapping[str, list[float]]) -> None:
    base = statistics.median(next(iter(seconds.values())))
    print(f"\nprefill of {LONG} tokens, median of {len(next(iter(seconds.values())))}\n")
    print("| prefill | seconds | base time / its time |")
    print("|---|---:|---:|")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times):.2f} | {base / statistics.median(times):.3f} |")


if __name__ == "__main__":
    raise SystemExit(main())
