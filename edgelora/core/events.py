"""Events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    STOP = "stop"
    """The model ended its turn, or a stop string was met."""
    LENGTH = "length"
    """max_tokens, or the context, was used up."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that were not computed: an earlier request's KV holds them."""
    drafted_tokens: int = 0
    """Tokens that were computed as drafts of the answer (prompt lookup)."""
    accepted_tokens: int = 0
    """Number of drafted tokens that were accepted; each saved a step."""

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
    """Offset of the token's text, in characters of the answer."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer. `text` may hold several tokens where bytes or a possible stop string had to wait."""

    text: str
    tokens: tuple[ScoredToken, ...] = ()
    """Tokens whose text is now shown, if logprobs were requested; tokens swallowed by a stop string are not
    included."""
    anew: bool = False
    """True if all earlier events are void, because the process that computed them died and the answer begins again.
    Happens only if the reader has set `Stream.whole`."""


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
