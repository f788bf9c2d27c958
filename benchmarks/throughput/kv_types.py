"""`python -m benchmarks.throughput.kv_types [--base FILE]`: what each KV type costs in exactness, and what it
saves in memory.

The base, its KV in f32, writes texts of its own at temperature 1, several side by side. Every type then reads the same
texts token by token, so that a token's error stands on those of all before it, and its distribution after each token is
compared with the f32 one. By default over the built-in base. The last columns are timed at the end of a context that is
otherwise full, the types in turn.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.machine import describe
from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.kv_types import token_bytes
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.config import KvType
from edgelora.core.errors import UsageError
from edgelora_models.builtin import base_gguf
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header
from edgelora_models.shape import LlamaShape

TEXTS = 8
REFERENCE: KvType = "f32"
PIECE = 256
TURNS = 15


@dataclass(frozen=True, slots=True)
class Error:
    """Of one type against the reference, over all tokens of all texts."""

    mean_kl: float
    """In nats."""
    p99_kl: float
    agreement: float
    """Share of tokens after which both think the same token the likeliest."""


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    base = options.base or base_gguf()
    shape = read_shape(read_header(base))
    backends = {kind: backend for kind in get_args(KvType) if (backend := _open(base, shape, kind, options.tokens))}
    texts, reference = write_texts(backends[REFERENCE], options.tokens, random.Random(0))
    print(f"\n{base.name}: {TEXTS} texts of {options.tokens} tokens\n")
    print(f"| KV | bytes a token | mean KL | p99 KL | same top token | ms for the last token | for the last {PIECE} |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    errors = {kind: error_of(read_texts(backend, texts), reference) for kind, backend in backends.items()}
    one, many = (step_times(list(backends.items()), texts, rows) for rows in (1, PIECE))
    for kind, error in errors.items():
        kl = f"{error.mean_kl:.2e} | {error.p99_kl:.2e} | {error.agreement:.2%}"
        print(f"| {kind} | {token_bytes(kind, shape):,} | {kl} | {1e3 * one[kind]:.2f} | {1e3 * many[kind]:.1f} |")
    print(f"\n{describe()}")
    for backend in backends.values():
        backend.close()
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput.kv_types", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--base", type=Path, help="a GGUF base (default: the built-in one)")
    parser.add_argument("--tokens", type=int, default=256, help="length of each text (default 256)")
    return parser.parse_args(arguments)


def _open(base: Path, shape: LlamaShape, kind: KvType, tokens: int) -> LlamaCppBackend | None:
    cells = max(TEXTS * (tokens + 1), 2 * PIECE)
    options = BackendOptions(
        context_length=cells, max_sequences=TEXTS, max_step_tokens=PIECE, kv_cells=cells, kv_type=kind
    )
    try:
        return LlamaCppBackend.open(base, shape=shape, settings=options)
    except UsageError as error:
        print(f"{kind}: {error}")
        return None


def write_texts(
    backend: LlamaCppBackend, tokens: int, rng: random.Random
) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Texts sampled at temperature 1, [TEXTS][tokens], each from another first token; and the logits after every token,
    [tokens, TEXTS, vocab]."""
    texts = [[rng.randrange(backend.tokenizer.size)] for _ in range(TEXTS)]
    found = []
    for position in range(tokens):
        found.append(_step(backend, texts, position))
        for text, row in zip(texts, found[-1], strict=True):
            text.append(int(rng.choices(range(len(row)), _distribution(row))[0]))
    _clear(backend)
    return [text[:tokens] for text in texts], np.stack(found)


def read_texts(backend: LlamaCppBackend, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Return the logits after every token of the texts, [tokens, TEXTS, vocab]."""
    found = np.stack([_step(backend, texts, position) for position in range(len(texts[0]))])
    _clear(backend)
    return found


def error_of(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> Error:
    p, q = _distribution(reference), _distribution(logits)
    kl = np.maximum((p * (np.log(p) - np.log(q))).sum(axis=-1), 0.0)
    same = (logits.argmax(axis=-1) == reference.argmax(axis=-1)).mean()
    return Error(float(kl.mean()), float(np.quantile(kl, 0.99)), float(same))


def step_times(
    backends: Sequence[tuple[KvType, LlamaCppBackend]], texts: Sequence[Sequence[int]], rows: int
) -> dict[KvType, float]:
    """Seconds of a step of `rows` tokens that fills the context, the median of turns in changing order."""
    held = backends[0][1].capabilities.context_length - rows
    tokens = list(itertools.islice(itertools.cycle(itertools.chain.from_iterable(texts)), held))
    for _, backend in backends:
        for start in range(0, held, PIECE):
            backend.step([_chunk(0, start, tuple(tokens[start : start + PIECE]))])
    seconds: dict[KvType, list[float]] = {kind: [] for kind, _ in backends}
    order = random.Random(0)
    for _ in range(TURNS):
        for kind, backend in order.sample(backends, len(backends)):
            began = time.perf_counter()
            backend.step([_chunk(0, held, (1,) * rows)])
            seconds[kind].append(time.perf_counter() - began)
            backend.truncate(0, held)
    for _, backend in backends:
        backend.clear(0)
    return {kind: statistics.median(found) for kind, found in seconds.items()}


def _chunk(sequence: int, position: int, tokens: tuple[int, ...]) -> Chunk:
    return Chunk(sequence=sequence, position=position, tokens=tokens, adapters=(), logits=1)


def _step(backend: LlamaCppBackend, texts: Sequence[Sequence[int]], position: int) -> NDArray[np.float32]:
    rows = backend.step([_chunk(n, position, (text[position],)) for n, text in enumerate(texts)])
    return np.concatenate([row for row in rows if row is not None])


def _clear(backend: LlamaCppBackend) -> None:
    for sequence in range(TEXTS):
        backend.clear(sequence)


def _distribution(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    values = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


if __name__ == "__main__":
    raise SystemExit(main())
