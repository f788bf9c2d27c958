"""`python -m benchmarks.latency.cold_load --base FILE --adapters DIR`: what it takes to have an adapter that
was not in memory.

Each adapter is loaded in every way in turn, round after round, first with its file in the page cache, then, where the
system lets its pages be dropped, from the disk. Ratios are to copying as many bytes in memory. Then one-row steps: the
first with an adapter that was just loaded, the second, and later ones.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.adapters import mapped_copies
from benchmarks.harness.machine import describe
from benchmarks.harness.pages import drop
from edgelora.backends.base import Applied, Chunk
from edgelora.backends.llama_cpp.adapter import load_lora
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.context import Context
from edgelora.backends.llama_cpp.model import Model
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.backends.llama_cpp.upstream_lora import UpstreamLoraMethod
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header

SETTINGS = BackendOptions(context_length=256, max_sequences=2, max_step_tokens=32, max_slots=2, kv_cells=512)
STEPS = 6
"""One-row steps after each load; those from the third on are the later ones."""


@dataclass(frozen=True, slots=True)
class Adapter:
    gguf: Path
    mapped: Path


@dataclass
class Case:
    name: str
    load: Callable[[Adapter], Any]
    """Gives back what must be dropped before the file's pages can be."""
    file: Callable[[Adapter], Path]
    seconds: list[float] = field(default_factory=list)

    def run(self, adapter: Adapter) -> None:
        began = time.perf_counter()
        held = self.load(adapter)
        self.seconds.append(time.perf_counter() - began)
        del held


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    paths = sorted(options.adapters.glob("*.gguf"))[: options.count]
    if not paths:
        print(f"There is no adapter (*.gguf) in {options.adapters}.")
        return 2
    shape = read_shape(read_header(options.base))
    with mapped_copies(paths, shape) as copies:
        adapters = [Adapter(*pair) for pair in zip(paths, copies, strict=True)]
        sizes = ", ".join(f"{path.stat().st_size / 1e6:.1f} MB" for path in (paths[0], copies[0]))
        print(f"\n{len(adapters)} adapters, {sizes} (GGUF, mapped); median of {options.rounds} loads of each\n")
        backend = LlamaCppBackend.open(options.base, shape=shape, settings=SETTINGS)
        _loads(options.base, shape, backend, adapters, options.rounds)
        _steps(backend, adapters, options.rounds)
        backend.close()
    print(f"\n{describe()}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency.cold_load", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--base", type=Path, required=True, help="a GGUF base (see benchmarks.harness.make_base)")
    parser.add_argument("--adapters", type=Path, required=True, help="a folder of GGUF adapters for it")
    parser.add_argument("--count", type=int, default=4, help="how many of them (default 4)")
    parser.add_argument("--rounds", type=int, default=5, help="loads of each adapter in each way (default 5)")
    return parser.parse_args(arguments)


def _loads(base: Path, shape: Any, backend: LlamaCppBackend, adapters: Sequence[Adapter], rounds: int) -> None:
    model = Model.load(base, shape=shape, progress=None)
    context = Context(model, SETTINGS, vocab=shape.vocab)
    own = UpstreamLoraMethod(model, context.handle, shape)
    cases = _cases(shape, backend, own)
    bytes_of = {path: np.fromfile(path, np.uint8) for adapter in adapters for path in (adapter.mapped,)}
    copy = Case("copying as many bytes in memory", lambda a: bytes_of[a.mapped].copy(), lambda a: a.mapped)
    print("| from the page cache | ms | fastest | of a copy |\n|---|---:|---:|---:|")
    _measure([copy, *cases], adapters, rounds, cold=False)
    _print([copy, *cases], statistics.median(copy.seconds))
    _cold(cases, adapters, rounds, statistics.median(copy.seconds))
    context.close()
    model.close()


def _cases(shape: Any, backend: LlamaCppBackend, own: UpstreamLoraMethod) -> list[Case]:
    def native(adapter: Adapter) -> None:
        """llama.cpp's own reader alone: the file is trusted here."""
        from edgelora.backends.llama_cpp.upstream_lora import UpstreamLora

        own.attach(0, UpstreamLora(adapter.gguf, 0))
        own.detach(0)

    return [
        Case("reading all of its bytes", lambda a: np.fromfile(a.mapped, np.uint8), lambda a: a.mapped),
        Case("edgelora, mapped", lambda a: backend.load(a.mapped), lambda a: a.mapped),
        Case("edgelora, GGUF read and transposed", lambda a: load_lora(a.gguf, shape, widen=False), lambda a: a.gguf),
        Case("llama.cpp, llama_adapter_lora_init", native, lambda a: a.gguf),
    ]


def _measure(cases: Sequence[Case], adapters: Sequence[Adapter], rounds: int, *, cold: bool) -> bool:
    """False where a file's pages could not be dropped."""
    order = random.Random(0)
    for case in cases:
        for adapter in adapters:
            case.run(adapter)
        case.seconds.clear()
    for _ in range(rounds):
        for adapter in adapters:
            for case in order.sample(list(cases), len(cases)):
                if cold and not drop(case.file(adapter)):
                    return False
                case.run(adapter)
    return True


def _cold(cases: Sequence[Case], adapters: Sequence[Adapter], rounds: int, copy: float) -> None:
    for case in cases:
        case.seconds.clear()
    if not _measure(cases, adapters, min(rounds, 3), cold=True):
        print("\nFrom the disk: not measured, the pages of a file could not be dropped here.")
        return
    print("\n| from the disk (pages dropped) | ms | fastest | of a copy |\n|---|---:|---:|---:|")
    _print(cases, copy)


def _print(cases: Sequence[Case], copy: float) -> None:
    for case in cases:
        median = statistics.median(case.seconds)
        print(f"| {case.name} | {median * 1e3:.1f} | {min(case.seconds) * 1e3:.1f} | {median / copy:.2f} |")


def _steps(backend: LlamaCppBackend, adapters: Sequence[Adapter], rounds: int) -> None:
    """One-row steps after a load of the mapped file and after reading the GGUF, and steps of the base beside them."""
    times: dict[str, list[list[float]]] = {"the base": [], "mapped": [], "GGUF, in memory of its own": []}
    position = 0
    for number in range(rounds + 1):
        for name in times:
            adapter = adapters[number % len(adapters)]
            if name != "the base":
                backend.attach(0, backend.load(adapter.mapped if name == "mapped" else adapter.gguf))
            applied = () if name == "the base" else (Applied(0),)
            backend.clear(0)
            seconds = []
            for position in range(STEPS):
                began = time.perf_counter()
                backend.step([Chunk(0, position, (1000 + position,), applied, True)])
                seconds.append(time.perf_counter() - began)
            if name != "the base":
                backend.detach(0)
            if number:  # the first round warms the base's own pages
                times[name].append(seconds)
    _print_steps(times)


def _print_steps(times: Mapping[str, Sequence[Sequence[float]]]) -> None:
    print("\n| one-row steps after a load, ms | first | second | later | fastest |\n|---|---:|---:|---:|---:|")
    for name, runs in times.items():
        first, second = (statistics.median(run[n] for run in runs) for n in range(2))
        later = [seconds for run in runs for seconds in run[2:]]
        cells = (first, second, statistics.median(later), min(later))
        print(f"| {name} | " + " | ".join(f"{seconds * 1e3:.1f}" for seconds in cells) + " |")


if __name__ == "__main__":
    raise SystemExit(main())
