"""Sampling params."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgelora.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar that the whole text of an answer must match, unless it is cut at its length limit; see
    `text.schema_grammar`."""

    grammar: str
    """The grammar in llguidance's JSON form, with named grammars."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling settings of a request. Temperature 0 is greedy and ignores top_p, top_k, min_p and seed."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    """Number of latest tokens, prompt included, that the repetition penalty considers."""
    seed: int | None = None
    """Random seed; None draws a fresh one for each request."""
    max_tokens: int | None = None
    """Largest number of tokens in the answer; None generates until the model stops or the context is full."""
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """Taken from the logit of a token that the answer has, once; and once for each time. The prompt does not count."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, each once, and what is added to their logits."""
    logprobs: int | None = None
    """Number of likeliest tokens reported beside each chosen one; 0 reports the chosen one alone, None nothing."""
    constraint: Constraint | None = None
    min_tokens: int = 0
    """Number of tokens before which no end token, stop token or stop text ends the answer."""
    ignore_eos: bool = False
    """True if the tokens that end a turn are never chosen, unless a constraint allows nothing else."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end the answer, besides the base's own."""
    include_stop: bool = False
    """True if the text that ended the answer (a stop string, or a stop token's text) is part of it."""


MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_STOP_TOKENS = 256
MAX_BIASES = 1024
MAX_BIAS = 100.0
MAX_LOGPROBS = 20


def validate(params: SamplingParams) -> None:
    """Raises UsageError naming the field that is out of range."""
    _check_number("temperature", params.temperature, low=0.0)
    _check_number("top_p", params.top_p, low=0.0, high=1.0)
    _check_number("min_p", params.min_p, low=0.0, high=1.0)
    _check_number("repeat_penalty", params.repeat_penalty, low=0.01, high=100.0)
    _check_number("presence_penalty", params.presence_penalty, low=-2.0, high=2.0)
    _check_number("frequency_penalty", params.frequency_penalty, low=-2.0, high=2.0)
    _check_bias(params.logit_bias)
    _check_count("top_k", params.top_k, low=0)
    _check_count("repeat_last_n", params.repeat_last_n, low=0)
    _check_count("min_tokens", params.min_tokens, low=0)
    if params.logprobs is not None:
        _check_count("logprobs", params.logprobs, low=0, high=MAX_LOGPROBS)
    if params.max_tokens is not None:
        _check_count("max_tokens", params.max_tokens, low=1)
        if params.min_tokens > params.max_tokens:
            raise _out_of_range("min_tokens", params.min_tokens, f"at most max_tokens, which is {params.max_tokens}")
    if params.seed is not None:
        _check_count("seed", params.seed, low=-(1 << 63), high=(1 << 64) - 1)
    _check_stops(params.stop)
    _check_stop_tokens(params.stop_token_ids)


def _check_bias(biases: tuple[tuple[int, float], ...]) -> None:
    if len(biases) > MAX_BIASES:
        raise _out_of_range("logit_bias", f"{len(biases)} tokens", f"at most {MAX_BIASES} tokens")
    if len({token for token, _ in biases}) < len(biases):
        raise _out_of_range("logit_bias", "given twice for a token", "given once for each")
    for token, bias in biases:
        _check_count("logit_bias", token, low=0)
        _check_number("logit_bias", bias, low=-MAX_BIAS, high=MAX_BIAS)


def _check_number(name: str, value: float, *, low: float, high: float = math.inf) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        expected = f"a number of at least {low:g}" if math.isinf(high) else f"a number from {low:g} to {high:g}"
        raise _out_of_range(name, value, expected)


def _check_count(name: str, value: int, *, low: int, high: int = (1 << 31) - 1) -> None:
    integral = isinstance(value, int) and not isinstance(value, bool)
    if not integral or not low <= value <= high:
        raise _out_of_range(name, value, f"a whole number from {low} to {high}")


def _check_stops(stop: tuple[str, ...]) -> None:
    if len(stop) > MAX_STOPS:
        raise _out_of_range("stop", f"{len(stop)} strings", f"at most {MAX_STOPS} strings")
    if any(not 0 < len(text) <= MAX_STOP_CHARS for text in stop):
        raise UsageError(
            "invalid_value",
            "stop has a string that is empty or too long.",
            f"Give strings of 1 to {MAX_STOP_CHARS} characters.",
            param="stop",
        )


def _check_stop_tokens(tokens: tuple[int, ...]) -> None:
    if len(tokens) > MAX_STOP_TOKENS:
        raise _out_of_range("stop_token_ids", f"{len(tokens)} tokens", f"at most {MAX_STOP_TOKENS} tokens")
    for token in tokens:
        _check_count("stop_token_ids", token, low=0)


def _out_of_range(name: str, value: object, expected: str) -> UsageError:
    return UsageError("invalid_value", f"{name} is {value}.", f"It must be {expected}.", param=name)
