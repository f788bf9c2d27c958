"""Pure values that cross the runtime's seams. No I/O, no clock, no threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from pathlib import Path

from edgelora.errors import UsageError

Progress = Callable[[str, int, int], None]
"""(label, done, total): how far long work is. total 0 is unknown; done == total ends it."""


class FinishReason(StrEnum):
    STOP = "stop"
    """The model ended its turn, or a stop string was met."""
    LENGTH = "length"
    """max_tokens, or the context, was used up."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer's text must be, to the letter, unless it is cut by its length. `grammar.py` makes them."""

    grammar: str
    """As llguidance reads it (its JSON of named grammars)."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. temperature 0 is greedy and ignores top_p, top_k, min_p and seed."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    """How many of the latest tokens (prompt included) the penalty looks at."""
    seed: int | None = None
    """None draws a fresh seed for each request."""
    max_tokens: int | None = None
    """None: until the model stops or the context is full."""
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """Taken from the logit of a token that the answer has, once; and once for each time. The prompt does not count."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, each once, and what is added to their logits."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told beside each one that is chosen; 0 that one alone, None nothing."""
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """One installed adapter version, converted for the resident base: all the engine needs to load it."""

    name: str
    version: str
    """sha256 hex of the source files: what makes a version that version."""
    path: Path
    """The converted file (GGUF) or folder (MLX), immutable."""
    nbytes: int
    """Bytes it will take in memory; reserved in the pool before it is loaded."""
    invocation: tuple[int, ...] = ()
    """aLoRA: the token ids it acts from on, see `activation`. Empty: it acts on every token."""

    @property
    def key(self) -> tuple[str, str]:
        return (self.version, str(self.path))

    def __str__(self) -> str:
        return f"{self.name}@{self.version[:12]}"


MAX_WEIGHT = 4.0
"""Of an adapter in a request, either sign: far beyond what a trained adapter is good for."""
MAX_ADAPTERS = 8
"""In one request."""


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """One adapter's part in a request."""

    ref: AdapterRef
    weight: float = 1.0
    """Its delta is multiplied by this: finite, at most MAX_WEIGHT either way; 0 is as if it were not there."""
    start: int = 0
    """First position of prompt and answer it acts on: an aLoRA's invocation."""

    @property
    def key(self) -> tuple[tuple[str, str], float, int]:
        return (self.ref.key, self.weight, self.start)


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, frozen before it reaches the engine thread.

    Raises UsageError for too many adapters, for one given twice, or for a weight or start that cannot be.
    """

    id: str
    prompt: tuple[int, ...]
    """Token ids, template and BOS included; never empty."""
    adapters: tuple[AdapterUse, ...]
    """Given in any order, kept in one, those of weight 0 left out; empty is the base alone."""
    sampling: SamplingParams
    client: str = ""
    """Who asks: places are given by turns between clients. All that say nothing are one."""
    system: int = 0
    """How many first tokens of the prompt are its system prompt's, up to where the user's message begins."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapters", _composed(self.adapters))


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that were not computed: an earlier request's KV holds them."""
    drafted_tokens: int = 0
    """Tokens that were computed as drafts of the answer (prompt lookup)."""
    accepted_tokens: int = 0
    """Of those, the ones that came: each saved a step."""

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of wall time, by state. `load` is the wait for the adapter, 0.0 where it was resident."""

    queued: float
    load: float
    prefill: float
    decode: float

    @property
    def first_token(self) -> float:
        return self.queued + self.load + self.prefill


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token, and how likely the model held it: before constraint, bias, penalties and temperature."""

    token: int
    piece: bytes
    logprob: float
    """Natural logarithm; finite."""


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of the answer beside those that were likeliest in its place."""

    chosen: Candidate
    top: tuple[Candidate, ...]
    """Likeliest first."""
    start: int
    """Where its text begins, in characters of the answer."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer. `text` may hold several tokens where bytes or a possible stop string had to wait."""

    text: str
    tokens: tuple[ScoredToken, ...] = ()
    """Those whose text is now shown, where logprobs were asked for: what a stop string swallowed is not among them."""
    anew: bool = False
    """What came before this is void: the process that computed it died, and the answer begins again. Only where the
    reader has set `Stream.whole`."""


@dataclass(frozen=True, slots=True)
class Finished:
    reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Failed:
    """The generation ended without an answer: load failure, backend failure, cancel, shutdown."""

    error: Exception


Event = TextDelta | Finished | Failed
"""A request's stream: any number of TextDelta, then exactly one Finished or Failed."""


def _composed(uses: tuple[AdapterUse, ...]) -> tuple[AdapterUse, ...]:
    if len(uses) > MAX_ADAPTERS:
        what = f"{len(uses)} adapters are given; a request may have {MAX_ADAPTERS}."
        raise UsageError("too_many_adapters", what, "Name fewer.", param="adapters")
    for number, use in enumerate(uses):
        if not isfinite(use.weight) or abs(use.weight) > MAX_WEIGHT or use.start < 0:
            raise UsageError(
                "bad_weight",
                f"Adapter {use.ref} cannot act with weight {use.weight} from position {use.start} on.",
                f"Give it a weight from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}.",
                param="adapters",
            )
        if any(use.ref.key == other.ref.key for other in uses[:number]):
            raise UsageError(
                "adapter_twice",
                f"Adapter {use.ref} is given twice.",
                "Give it once, with the sum of its weights.",
                param="adapters",
            )
    return tuple(sorted((use for use in uses if use.weight), key=lambda use: use.ref.key))
