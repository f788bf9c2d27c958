"""The bodies of generating requests as types: from a JSON object to sampling parameters.

There are three kinds of field. The fields of the types are honoured. Those in INERT are known and not supported: a
value that would change nothing is accepted, any other is refused. All others, such as `metadata` and other servers'
extensions, are ignored, as the hosted APIs do; `user` only identifies the client for fair scheduling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct

from edgelora.core.request import MAX_ADAPTERS, MAX_WEIGHT
from edgelora.core.sampling_params import MAX_BIAS, MAX_BIASES, Constraint, SamplingParams
from edgelora.server.auth.caller import caller
from edgelora.server.http.endpoint import Inert
from edgelora.server.http.validation import check_text, invalid, refuse_unsupported, typed, unsupported

MAX_STOPS = 16
MAX_CHOICES = 16
"""Maximum number of answers to one prompt."""
_SEED_MASK = (1 << 64) - 1

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
ModelName = Annotated[str, Meta(min_length=1, max_length=512)]
StopText = Annotated[str, Meta(min_length=1, max_length=512)]

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-MAX_BIAS, le=MAX_BIAS)]

INERT: Inert = {
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "json_schema": ({},),
    "structured_outputs": (),
}
"""Unsupported fields of both bodies, each with the values that change nothing. With these, other servers constrain an
answer; if they were ignored, the answers would violate the constraint."""

CHAT_INERT: Inert = {
    **INERT,
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}

COMPLETION_INERT: Inert = {**INERT, "best_of": (1,), "suffix": ("",)}


class AdapterPart(Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter of a composition, with its weight."""

    name: ModelName
    weight: Annotated[float, Meta(ge=-MAX_WEIGHT, le=MAX_WEIGHT)] = 1.0


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class SamplingFields(Struct, frozen=True, kw_only=True):
    """The fields of every generating body that select the model and set the sampling.

    `adapters`, `top_k`, `min_p`, `repeat_penalty` are edgelora's extensions.
    """

    model: ModelName
    adapters: Annotated[list[AdapterPart], Meta(max_length=MAX_ADAPTERS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Count | None = None
    min_p: Share | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Bias], Meta(max_length=MAX_BIASES)] | None = None
    seed: Seed | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=MAX_STOPS)] | None = None


class GenerationFields(SamplingFields, frozen=True, kw_only=True):
    """The fields that OpenAI's completions and chat completions have in common."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Positive | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def samplings(
        self,
        defaults: SamplingParams,
        *,
        max_tokens: int | None,
        logprobs: int | None = None,
        constraint: Constraint | None = None,
    ) -> tuple[SamplingParams, ...]:
        """Return the sampling parameters of each choice: the defaults, replaced by the request's fields.

        A negative seed stands for its two's complement. The choices after the first have the seeds that follow it.
        """
        names = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        bias = _biases(self.logit_bias or {})
        sampling = replace(
            defaults,
            **given,
            stop=stop,
            max_tokens=max_tokens,
            logit_bias=bias,
            logprobs=logprobs,
            constraint=constraint,
        )
        seeds = [None if self.seed is None else (self.seed + number) & _SEED_MASK for number in range(self.n or 1)]
        return tuple(replace(sampling, seed=seed) for seed in seeds)


BodyT = TypeVar("BodyT", bound=GenerationFields)


def parse_body(raw: dict[str, object], kind: type[BodyT], inert: Inert) -> BodyT:
    """Return a typed body. Raises UsageError with `param` for a missing, wrong or unsupported field."""
    refuse_unsupported(raw, inert)
    body = typed(raw, kind)
    _check_stream_options(raw, streamed=bool(body.stream))
    check_text(body.model, "model")
    for text in (body.stop,) if isinstance(body.stop, str) else body.stop or ():
        check_text(text, "stop")
    return body


def _biases(given: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    for token in given:
        if not re.fullmatch(r"0|[1-9][0-9]{0,8}", token):
            raise invalid("logit_bias", f"has {token[:50]!r}, which is not a token id")
    return tuple((int(token), bias) for token, bias in given.items())


def client_of(raw: Mapping[str, object]) -> str:
    """Return the client's name for fair scheduling: its key's name, or else the field `user` if it is a string.

    Requests with neither are one client. A key is one client too, so it cannot gain a larger share by inventing users.
    """
    user = raw.get("user")
    return caller().name or (user if isinstance(user, str) else "")


def _check_stream_options(raw: dict[str, Any], *, streamed: bool) -> None:
    options = raw.get("stream_options")
    if options is None:
        return
    if not streamed:
        raise invalid("stream_options", "is only allowed together with 'stream': true")
    if options.get("include_obfuscation"):
        raise unsupported("stream_options.include_obfuscation", (False,))
