"""`python -m benchmarks.decode --base FILE --adapters DIR`: what an adapter costs in a decode step.

Every case runs in the same process on the same base, a few steps in turn, round after round, so that a slow minute of
the machine falls on all. The last column is the base's time by the case's time with as many sequences: 1.0 is free.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.machine import describe
from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp import BackendOptions
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.context import Context
from edgelora.backends.llama_cpp.hook import HookMethod
from edgelora.backends.llama_cpp.model import Model
from edgelora.backends.llama_cpp.native import NativeMethod
from edgelora.backends.llama_cpp.selftest import find_weights
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header

WIDE = 8
"""Sequences of the wide cases, and adapters they use."""
PROMPT = 8
"""Tokens every sequence holds before it is timed."""
STEPS_PER_TURN = 4


@dataclass
class Case:
    """A fixed set of sequences decoding side by side, and the seconds of every step so far."""

    name: str
    backend: LlamaCppBackend
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
            Chunk(sequence=self.first_sequence + n, position=self.position, tokens=tokens, slot=slot, logits=True)
            for n, slot in enumerate(self.slots)
        ]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    paths = sorted(options.adapters.glob("*.gguf"))[:WIDE]
    if not paths:
        print(f"There is no adapter (*.gguf) in {options.adapters}.")
        return 2
    shape = read_shape(read_header(options.base))
    rounds = -(-options.steps // STEPS_PER_TURN)
    model = Model.load(options.base, shape=shape, progress=None)
    settings = _settings(rounds, options.threads)
    context, plain = (
        Context(model, replace(settings, method=method), vocab=shape.vocab) for method in ("hook", "native")
    )
    weights = find_weights(context, shape, max_sequences=settings.max_sequences)
    hook = LlamaCppBackend(
        model=model, context=context, method=HookMethod(context.tap, shape, weights), options=settings
    )
    native = LlamaCppBackend(
        model=model, context=plain, method=NativeMethod(model, plain.handle, shape), options=settings
    )
    for slot, path in enumerate(paths):
        hook.attach(slot, hook.load(path))
    native.attach(0, native.load(paths[0]))
    _print(_measure(_cases(hook, native, len(paths)), rounds), options.base, settings)
    native.detach(0)
    plain.close()  # the model, which both share, goes with the other backend
    hook.close()
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", type=Path, required=True, help="a GGUF base (see benchmarks.make_base)")
    parser.add_argument("--adapters", type=Path, required=True, help="a folder of GGUF adapters for it")
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each case (default 40)")
    parser.add_argument("--threads", type=int, default=None, help="compute threads (default: physical cores)")
    return parser.parse_args(arguments)


def _settings(rounds: int, threads: int | None) -> BackendOptions:
    length = PROMPT + 1 + rounds * STEPS_PER_TURN
    sequences = 2 * (1 + WIDE)
    return BackendOptions(
        context_length=length,
        max_sequences=sequences,
        max_step_tokens=WIDE * PROMPT,
        max_slots=WIDE,
        threads=threads,
        kv_cells=length * sequences,
    )


def _cases(hook: LlamaCppBackend, native: LlamaCppBackend, adapters: int) -> list[Case]:
    """Base and adapter have the same number of sequences, side by side, in each half."""
    mixed = tuple(n % adapters for n in range(WIDE))
    return [
        Case("base", hook, 0, (None,)),
        Case("one adapter", hook, 1, (0,)),
        Case("llama.cpp's own LoRA, one adapter", native, 0, (0,)),
        Case("base", hook, 2, (None,) * WIDE),
        Case(f"{adapters} adapters", hook, 2 + WIDE, mixed),
        Case("llama.cpp's own LoRA, one shared adapter", native, 1, (0,) * WIDE),
    ]


def _measure(cases: Sequence[Case], rounds: int) -> Sequence[Case]:
    for case in cases:
        case.prefill()
    for number in range(rounds):
        # Each round starts one case later, so that no case always follows the same one.
        for n in range(len(cases)):
            cases[(number + n) % len(cases)].turn()
    return cases


def _print(cases: Sequence[Case], base: Path, settings: BackendOptions) -> None:
    print(f"\n{base.name}, {base.stat().st_size / 1e9:.2f} GB; threads: {settings.threads or 'physical cores'};")
    print(f"median of {len(cases[0].seconds)} steps in interleaved turns of {STEPS_PER_TURN}\n")
    print("| sequences | adapters | ms per step | tok/s | base time / its time |")
    print("|---:|---|---:|---:|---:|")
    for case in cases:
        count = len(case.slots)
        alone = next(other for other in cases if len(other.slots) == count)
        row = (f"{case.median * 1e3:.1f}", f"{count / case.median:.2f}", f"{alone.median / case.median:.3f}")
        print(f"| {count} | {case.name} | {' | '.join(row)} |")
    print(f"\n{describe()}")


if __name__ == "__main__":
    raise SystemExit(main())
