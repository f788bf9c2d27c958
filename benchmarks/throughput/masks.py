"""`python -m benchmarks.throughput.masks`: what holding an answer to a schema costs a token, over 128,256
made-up tokens.

No base: logits are noise, so that only the choice of a token is measured, beside the same choice without a constraint.
Times are of the thread's own processor time: the engine's thread does nothing else meanwhile.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from edgelora.core.errors import UsageError
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.sampling.guided_decoding import guide
from edgelora.engine.sampling.sampler import Sampler
from edgelora.text.schema_grammar import of_schema

SIZE, CONTROLS = 128_256, 256
STEPS = 300
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}},
        "kind": {"enum": ["a", "b", "cc"]},
        "address": {"type": "object", "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}}},
    },
    "required": ["name", "age", "tags", "kind", "address"],
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "any object": {"type": "object"},
    "a person": PERSON,
    "a long string, bounded": {"type": "string", "maxLength": 100_000},
    "1,000 choices": {"enum": [f"choice {number}" for number in range(1000)]},
    "500 optional properties": {"type": "object", "properties": {f"p{number}": {} for number in range(500)}},
    "a costly pattern": {"type": "string", "pattern": "(.*a){50}.*b.{500}"},
}


@dataclass(frozen=True, eq=False)
class MadeUp:
    """Words of Latin letters with and without a space, digits, punctuation of JSON, other scripts: 128,000 tokens and
    256 control tokens, as Llama 3 counts them."""

    bos_text: str = "<s>"
    eos_text: str = "</s>"
    chat_template: str | None = None
    end_ids: frozenset[int] = field(default=frozenset({SIZE - CONTROLS + 1, SIZE - CONTROLS + 9}))
    size: int = SIZE

    @cached_property
    def pieces(self) -> list[bytes]:
        draw, pieces = random.Random(0), {bytes([byte]): None for byte in range(256)}
        while len(pieces) < SIZE - CONTROLS:
            pieces.setdefault(_word(draw).encode())
        return [*pieces, *[b""] * CONTROLS]

    def piece(self, token: int) -> bytes:
        return self.pieces[token]

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        return list(text.encode())

    def fewest_tokens(self, text: str) -> int:
        return 0


def _word(draw: random.Random) -> str:
    letters = "".join(draw.choices("etaoinshrdlucmfwypvbgkjqxz", weights=range(26, 0, -1), k=draw.randint(2, 9)))
    makers: Sequence[Callable[[], str]] = (
        lambda: letters,
        lambda: f" {letters}",
        lambda: letters.capitalize(),
        lambda: f'"{letters}',
        lambda: "".join(draw.choices('{}[]":,. \n\t()<>/=_-', k=draw.randint(2, 5))),
        lambda: "".join(draw.choices("0123456789", k=draw.randint(2, 3))),
        lambda: "".join(chr(draw.randint(0x400, 0x4FF)) for _ in range(draw.randint(1, 5))),
    )
    return draw.choices(makers, weights=(20, 45, 10, 5, 5, 3, 12))[0]()


def measure(schema: dict[str, Any] | None, tokenizer: MadeUp) -> tuple[float, list[float]]:
    """Milliseconds to compile, and for each token."""
    constraint = None if schema is None else of_schema(schema, param="schema")
    began = time.thread_time()
    held = guide(constraint, tokenizer)
    compiled = time.thread_time() - began
    sampler, times = Sampler(SamplingParams(temperature=1.0, seed=0), (), guide=held), list[float]()
    noise = [np.random.default_rng(n).normal(0, 3, SIZE).astype(np.float32) for n in range(8)]
    for step in range(STEPS):
        began = time.thread_time()
        try:
            token = sampler.choose(noise[step % len(noise)])
        except UsageError:  # It became too costly, and the answer ends with that.
            break
        times.append(1e3 * (time.thread_time() - began))
        if sampler.complete or token in tokenizer.end_ids:
            break
    return 1e3 * compiled, times


def main() -> None:
    tokenizer = MadeUp()
    guide(of_schema({"type": "null"}, param="schema"), tokenizer)  # makes the description, once
    print(f"{'':26}{'compiled':>10}{'median':>10}{'p99':>10}{'longest':>10}   ms; {SIZE:,} tokens")
    for name, schema in {"no constraint": None, **SCHEMAS}.items():
        compiled, times = measure(schema, tokenizer)
        marks = np.percentile(times, [50, 99, 100])
        print(f"{name:26}{compiled:10.1f}" + "".join(f"{mark:10.3f}" for mark in marks) + f"   {len(times)} tokens")


if __name__ == "__main__":
    main()
