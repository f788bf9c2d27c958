"""The effect of an adapter on a base, computed by the runtime and by the torch-free oracle: how far apart, and
how much.

Owns the prompts, the figures and what they must be. The oracle computes with the base's dequantized weights in float32,
so a quantized base is a little away from it without any adapter: that distance, measured on the same tokens, is what an
adapter is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgelora.backends.llama_cpp.backend import LlamaCppBackend
    from edgelora.core.tokenizer import Tokenizer
    from edgelora_converters.lora.adapter import LoraAdapter
    from edgelora_models.shape import LlamaShape

PROMPTS = (
    "What should I know about high blood pressure?",
    "Write one sentence about the sea.",
    "List three prime numbers, and say why they are prime.",
)
"""Asked as a user's messages, through the base's own template."""
FACTOR, ROUNDING = 2.0, 1e-6
"""Maximum KL with the adapter as a multiple of the base's own, and the allowance for float32 rounding."""

Logits = NDArray[Any]
"""[tokens, vocab]"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The runtime beside the oracle, over every position of every prompt."""

    kl: float
    """Mean KL(oracle || runtime) in nats."""
    kl_max: float
    top1: float
    """Share of positions with the same likeliest token."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The figures of one adapter on one base."""

    positions: int
    base: Agreement
    """Agreement without the adapter: the cost of the base's quantization."""
    adapter: Agreement
    effect: float
    """Mean KL(oracle with the adapter || oracle without), in nats: what the adapter changes."""
    runtime_effect: float
    """Mean KL between the runtime's own logits with the adapter and without, in nats."""
    changed: float
    """Share of positions at which the adapter makes another token the likeliest."""

    @property
    def limit(self) -> float:
        """Maximum accepted `adapter.kl`."""
        return FACTOR * self.base.kl + ROUNDING

    @property
    def passed(self) -> bool:
        return self.adapter.kl <= self.limit

    @property
    def visible(self) -> bool:
        """True if the adapter's effect exceeds the accepted distance of the runtime from the oracle."""
        return self.effect > self.limit


@dataclass(frozen=True, slots=True)
class ParityPrompt:
    """Tokens to compute, and the first position that the adapter applies to."""

    tokens: tuple[int, ...]
    start: int


def measure(
    base: Path,
    weights: Path,
    adapter: LoraAdapter,
    converted: Path,
    *,
    shape: LlamaShape,
    prompts: Sequence[str] = PROMPTS,
    tokens: int,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Parity:
    """Run `prompts`, cut to `tokens` tokens each, with and without the adapter, both ways.

    `base` is the GGUF file the runtime loads, `weights` where the oracle has them from (the same file, or the Hugging
    Face folder it was made of); `converted` the adapter in edgelora's own layout, `adapter` as its source says it.
    Raises BaseError, AdapterError, BackendError.
    """
    sequences, ours, ours_base = _runtime(base, shape, converted, adapter, prompts, tokens, threads)
    theirs, theirs_base = _oracle(weights, adapter, sequences, progress)
    return figures(ours, ours_base, theirs, theirs_base)


def figures(
    ours: Sequence[Logits], ours_base: Sequence[Logits], theirs: Sequence[Logits], theirs_base: Sequence[Logits]
) -> Parity:
    """Compute it from the runtime's (`ours`) and the oracle's logits, with the adapter and of the base alone."""
    with_adapter, alone, oracle, oracle_base = (
        np.concatenate(logits).astype(np.float64) for logits in (ours, ours_base, theirs, theirs_base)
    )
    return Parity(
        positions=len(oracle),
        base=_agreement(alone, oracle_base),
        adapter=_agreement(with_adapter, oracle),
        effect=float(_kl(oracle, oracle_base).mean()),
        runtime_effect=float(_kl(with_adapter, alone).mean()),
        changed=1.0 - _same_top(oracle, oracle_base),
    )


def _agreement(found: Logits, wanted: Logits) -> Agreement:
    kl = _kl(wanted, found)
    return Agreement(float(kl.mean()), float(kl.max()), _same_top(found, wanted))


def _same_top(one: Logits, other: Logits) -> float:
    return float((one.argmax(axis=-1) == other.argmax(axis=-1)).mean())


def _kl(wanted: Logits, found: Logits) -> NDArray[np.float64]:
    """KL(wanted || found) in nats at each position."""
    log_wanted, log_found = _log_softmax(wanted), _log_softmax(found)
    kl: NDArray[np.float64] = (np.exp(log_wanted) * (log_wanted - log_found)).sum(axis=-1)
    return np.maximum(kl, 0.0)  # rounding may take it below


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _runtime(
    base: Path,
    shape: LlamaShape,
    converted: Path,
    adapter: LoraAdapter,
    prompts: Sequence[str],
    tokens: int,
    threads: int | None,
) -> tuple[list[ParityPrompt], list[Logits], list[Logits]]:
    """The sequences, their logits with the adapter, and those of the base alone. The KV is float32: what is measured is
    the adapter and the base's own weights, not how the context is kept."""
    from edgelora.backends.base import Applied
    from edgelora.backends.llama_cpp.backend import LlamaCppBackend
    from edgelora.backends.llama_cpp.options import BackendOptions

    room = tokens + len(adapter.invocation)
    options = BackendOptions(
        context_length=room,
        max_sequences=1,
        max_step_tokens=room,
        max_slots=1,
        kv_cells=room,
        kv_type="f32",
        max_outputs=room,
        threads=threads,
    )
    backend = LlamaCppBackend.open(base, shape=shape, settings=options)
    try:
        sequences = [_sequence(prompt, backend.tokenizer, adapter.invocation, tokens) for prompt in prompts]
        backend.attach(0, backend.load(converted))
        ours = [_step(backend, sequence.tokens, (Applied(0, start=sequence.start),)) for sequence in sequences]
        return sequences, ours, [_step(backend, sequence.tokens, ()) for sequence in sequences]
    finally:
        backend.close()


def _sequence(prompt: str, tokenizer: Tokenizer, invocation: tuple[int, ...], tokens: int) -> ParityPrompt:
    """Return the prompt as a user's message; of an aLoRA its invocation behind it, where it begins to act."""
    from edgelora.text.prompt import Message, encode_chat

    ids = encode_chat([Message("user", prompt)], tokenizer)[:tokens]
    return ParityPrompt(ids + invocation, len(ids) if invocation else 0)


def _step(backend: LlamaCppBackend, tokens: tuple[int, ...], applied: tuple[Any, ...]) -> Logits:
    from edgelora.backends.base import Chunk
    from edgelora.core.errors import BackendError

    logits = backend.step([Chunk(0, 0, tokens, applied, len(tokens))])[0]
    backend.clear(0)
    if logits is None:
        raise BackendError("no_logits", "The backend gave no logits.")
    return logits


def _oracle(
    weights: Path,
    adapter: LoraAdapter,
    sequences: Sequence[ParityPrompt],
    progress: Callable[[str, int, int], None] | None,
) -> tuple[list[Logits], list[Logits]]:
    from edgelora_converters.oracle.llama import Case, Part, deltas_of
    from edgelora_converters.oracle.open import open_streamed

    cases = [Case(sequence.tokens, [Part(deltas_of(adapter), start=sequence.start)]) for sequence in sequences]
    cases += [Case(sequence.tokens) for sequence in sequences]
    with open_streamed(weights) as llama:
        layers = llama.config.shape.layers
        layer_done = None if progress is None else lambda done: progress("Computing with numpy", done, layers + 1)
        logits = llama.logits_of(cases, progress=layer_done)
    if progress is not None:
        progress("Computing with numpy", layers + 1, layers + 1)
    return logits[: len(sequences)], logits[len(sequences) :]
