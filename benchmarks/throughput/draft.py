"""`python -m benchmarks.throughput.draft [--base FILE]`: tokens per second with and without drafts by prompt lookup.

Two engines take turns on one base, one that drafts where it pays (as EDGELORA_SPECULATE=auto) and one that never does.
Each answers the same prompts: once with most of the prompt again, a few tokens changed, as an edited text has them;
once with an answer that repeats nothing. What is answered is a script, so that a random base will do: the base computes
every step, and then the next token of the script is made the likeliest. Each engine learns what steps cost and which
drafts are right as it goes, in the first rounds too. Without `--base`: the built-in one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.endless import EndlessTokenizer
from benchmarks.harness.homes import settings_of
from benchmarks.harness.machine import describe
from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.events import Failed, Finished
from edgelora.core.request import Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.engine.speculative.draft_budget import DRAFT_ROWS
from edgelora.store.library import open_library
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header

PLAIN_TOKENS = range(300, 1700)
"""Token ids that are text in every vocabulary."""
COPIED, CHANGED = 24, 3
"""An edited text: so many tokens as they were, then so many others in their place, and so on."""
WAYS = ("off", "auto")


class Scripted:
    """Some sequences of a real backend: it computes, and the script says which token is the likeliest."""

    def __init__(self, backend: LlamaCppBackend, *, first: int, sequences: int) -> None:
        self._backend = backend
        self._first = first
        able = backend.capabilities
        self.capabilities = replace(able, max_sequences=sequences, kv_cells=able.kv_cells // 2)
        self.tokenizer = EndlessTokenizer(backend.tokenizer)
        self.scripts: Mapping[int, tuple[int, ...]] = {}
        """By a prompt's first token: prompt and answer."""
        self._spoken: dict[int, tuple[int, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        found = self._backend.step([replace(chunk, sequence=self._first + chunk.sequence) for chunk in chunks])
        for chunk, logits in zip(chunks, found, strict=True):
            if chunk.position == 0:
                self._spoken[chunk.sequence] = self.scripts[chunk.tokens[0]]
            if logits is not None:
                end = chunk.position + len(chunk.tokens)
                after = self._spoken[chunk.sequence][end - len(logits) + 1 : end + 1]
                logits[np.arange(len(after)), after] = logits.max() + 1
        return found

    def clear(self, sequence: int) -> None:
        self._backend.clear(self._first + sequence)

    def truncate(self, sequence: int, length: int) -> None:
        self._backend.truncate(self._first + sequence, length)

    def copy(self, source: int, target: int, length: int) -> None:
        self._backend.copy(self._first + source, self._first + target, length)

    def close(self) -> None:
        """The base is the caller's."""


@dataclass
class Case:
    """One kind of answer, so many at once, in one way; what each round gave."""

    name: str
    together: int
    way: str
    rates: list[float] = field(default_factory=list)
    """Tokens per second of all its answers."""
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="edgelora-draft-") as folder:
        base = options.base or open_library(settings_of(Path(folder))).bases.current().path
        most = max(options.together)
        length = 2 * options.tokens + 32
        settings = BackendOptions(
            context_length=length,
            max_sequences=2 * most,
            threads=options.threads,
            batch_threads=options.threads,
            kv_cells=2 * most * length,
            max_outputs=2 * most + DRAFT_ROWS,
        )
        backend = LlamaCppBackend.open(base, shape=read_shape(read_header(base)), settings=settings)
        try:
            cases = measure(backend, options, most=most)
        finally:
            backend.close()
    _print(cases)
    print(f"\n{base.name}; {options.rounds} rounds of {options.tokens} tokens; {describe()}")
    return 0


def measure(backend: LlamaCppBackend, options: argparse.Namespace, *, most: int) -> list[Case]:
    sides = {way: Scripted(backend, first=n * most, sequences=most) for n, way in enumerate(WAYS)}
    engines = {
        way: Engine(side, adapter_budget_bytes=1, max_queue=most, speculate=way == "auto")
        for way, side in sides.items()
    }
    chance = random.Random(options.seed)
    kinds = {"copies its prompt": copying, "repeats nothing": repeating_nothing}
    cases = [Case(name, together, way) for together in options.together for name in kinds for way in WAYS]
    ids = count()
    try:
        for _ in range(options.rounds):
            for name, make in kinds.items():
                for together in options.together:
                    work = [make(options.tokens, chance) for _ in range(together)]
                    turn = [case for case in cases if (case.name, case.together) == (name, together)]
                    for case in chance.sample(turn, len(turn)):
                        sides[case.way].scripts = {prompt[0]: prompt + answer for prompt, answer in work}
                        answer_all(engines[case.way], case, work, ids=ids)
    finally:
        for engine in engines.values():
            engine.close(timeout=60.0)
    return cases


def answer_all(engine: Engine, case: Case, work: list[tuple[tuple[int, ...], ...]], *, ids: count[int]) -> None:
    """All at once; the rate is over the time from the last first token to the last end."""
    streams = [
        engine.submit(Request(f"r{next(ids)}", prompt, (), SamplingParams(max_tokens=len(answer))))
        for prompt, answer in work
    ]
    rate = 0.0
    for stream in streams:
        *_, last = stream
        if isinstance(last, Failed):
            raise last.error
        if not isinstance(last, Finished):
            raise RuntimeError("an answer has no end")
        rate += (last.usage.completion_tokens - 1) / last.timings.decode
        case.drafted += last.usage.drafted_tokens
        case.accepted += last.usage.accepted_tokens
        case.tokens += last.usage.completion_tokens
    case.rates.append(rate)


def copying(tokens: int, chance: random.Random) -> tuple[tuple[int, ...], ...]:
    """Return a prompt, and the same text again with a few tokens changed here and there."""
    prompt = tuple(chance.sample(PLAIN_TOKENS, tokens))
    fresh = iter(chance.choices(PLAIN_TOKENS, k=tokens))
    answer = [next(fresh) if n % (COPIED + CHANGED) >= COPIED else token for n, token in enumerate(prompt)]
    return prompt, tuple(answer)


def repeating_nothing(tokens: int, chance: random.Random) -> tuple[tuple[int, ...], ...]:
    """Return a prompt and an answer that share no pair of tokens, nor have one twice."""
    both = chance.sample(PLAIN_TOKENS, 2 * tokens)
    return tuple(both[:tokens]), tuple(both[tokens:])


def _print(cases: list[Case]) -> None:
    print("\n| answers | the answer | without, tok/s | with drafts, tok/s | with / without | drafted | accepted |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for without, drafting in zip(cases[::2], cases[1::2], strict=True):
        ratio = statistics.median(b / a for a, b in zip(without.rates, drafting.rates, strict=True))
        share = f"{drafting.accepted / drafting.drafted:.0%}" if drafting.drafted else "-"
        print(
            f"| {without.together} | {without.name} | {without.rate:.1f} | {drafting.rate:.1f} | {ratio:.2f}"
            f" | {drafting.drafted / drafting.tokens:.2f} a token | {share} |"
        )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput.draft", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", type=Path, help="a GGUF base (default: the built-in one)")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each prompt and answer (default 200)")
    parser.add_argument("--together", type=int, nargs="+", default=[1, 4], help="answers at once (default 1 4)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--threads", type=int, default=None, help="compute threads (default: physical cores)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
