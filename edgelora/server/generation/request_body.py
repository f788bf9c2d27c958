"""The bodies of generating requests as types: from a JSON object to sampling parameters.

The fields of the types are honoured. `known_fields.py` lists those that are refused, and those that are ignored; all
others are ignored too, as the hosted APIs do. `user` only identifies the client for fair scheduling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta, Struct

from edgelora.core.errors import UsageError
from edgelora.core.request import MAX_ADAPTERS, MAX_WEIGHT
from edgelora.core.sampling_params import MAX_BIAS, MAX_BIASES, MAX_STOP_TOKENS, Constraint, SamplingParams
from edgelora.server.auth.caller import caller
from edgelora.server.generation.known_fields import ADAPTER_FIELDS, NAME_IN_MODEL, NAMES, REMEDIES
from edgelora.server.http.endpoint import Inert
from edgelora.server.http.validation import check_text, invalid, refuse_unsupported, typed, unsupported

MAX_STOPS = 16
MAX_CHOICES = 16
"""Maximum number of answers to one prompt."""
_SEED_MASK = (1 << 64) - 1

Share = Annotated[float, Meta(ge=0, le=1)]
LARGEST = 2**31 - 1
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
CountOrAll = Annotated[int, Meta(ge=-1, le=LARGEST)]
"""-1 means all, or no limit, as for other servers."""
Positive = Annotated[int, Meta(ge=1, le=LARGEST)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
ModelName = Annotated[str, Meta(min_length=1, max_length=512)]
StopText = Annotated[str, Meta(min_length=1, max_length=512)]

Penalty = Annotated[float, Meta(ge=-2, le=2)]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "on_demand", "performance"]
"""OpenAI's and Groq's. This server has one, which its replies call `default`."""
RepeatPenalty = Annotated[float, Meta(gt=0, le=2)]
Bias = Annotated[float, Meta(ge=-MAX_BIAS, le=MAX_BIAS)]


class AdapterPart(Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter of a composition, with its weight."""

    name: ModelName
    weight: Annotated[float, Meta(ge=-MAX_WEIGHT, le=MAX_WEIGHT)] = 1.0


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class SamplingFields(Struct, frozen=True, kw_only=True):
    """The fields of every generating body that select the model and set the sampling.

    Those that OpenAI's API does not have are edgelora's, or other servers' (`known_fields.py`).
    """

    model: ModelName
    adapter_id: ModelName | None = None
    adapter: ModelName | None = None
    adapters: Annotated[list[AdapterPart], Meta(max_length=MAX_ADAPTERS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: CountOrAll | None = None
    min_p: Share | None = None
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = None
    repeat_last_n: CountOrAll | None = None
    repetition_context_size: CountOrAll | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Bias], Meta(max_length=MAX_BIASES)] | None = None
    seed: Seed | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_STOP_TOKENS)] | None = None
    include_stop_str_in_output: bool | None = None
    min_tokens: Count | None = None
    min_new_tokens: Count | None = None
    ignore_eos: bool | None = None

    @property
    def answering(self) -> str:
        """The name of the model that answers, as the client wrote it."""
        return self.adapter_id or self.adapter or self.model

    def value(self, field: str) -> Any:
        """Return the value of a field under any of its names. Raises UsageError if two of them disagree."""
        given = {name: value for name in NAMES[field] if (value := getattr(self, name, None)) is not None}
        for name, value in given.items():
            first = next(iter(given))
            if value != given[first]:
                raise invalid(first, f"disagrees with {name!r}")
        return next(iter(given.values()), None)

    def name_of(self, field: str) -> str:
        """Return the name under which the body has a field that has several."""
        return next((name for name in NAMES[field] if getattr(self, name, None) is not None), field)


class GenerationFields(SamplingFields, frozen=True, kw_only=True):
    """The fields that OpenAI's completions and chat completions have in common."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: CountOrAll | None = None
    n_predict: CountOrAll | None = None
    max_new_tokens: CountOrAll | None = None

    def limit(self, default: int | None = None) -> int | None:
        """Return the maximum number of tokens of the answer; None: no limit. `default`: if the body has none.

        Raises UsageError if the field's names disagree, or for 0.
        """
        limit: int | None = self.value("max_tokens")
        if limit == 0:
            raise invalid(
                self.name_of("max_tokens"),
                "is 0, but a prompt alone is not computed: send 1 or more, or -1 for no limit",
            )
        return default if limit is None else None if limit == -1 else limit

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
        names = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "ignore_eos")
        given = {name: getattr(self, name) for name in names}
        given |= {name: self.value(name) for name in ("repeat_penalty", "min_tokens")}
        given["top_k"] = 0 if self.top_k == -1 else self.top_k
        if max_tokens is not None and (given["min_tokens"] or 0) > max_tokens:
            raise invalid(self.name_of("min_tokens"), f"is more than the limit of the answer, {max_tokens} tokens")
        last = self.value("repeat_last_n")
        given["repeat_last_n"] = LARGEST if last == -1 else last
        if constraint is None:  # A stop within a constraint's text, as JSON, would break what the client asked for.
            stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
            given |= {"stop": stop, "stop_token_ids": tuple(self.stop_token_ids or ())}
        sampling = replace(
            defaults,
            **{name: value for name, value in given.items() if value is not None},
            include_stop=bool(self.include_stop_str_in_output),
            max_tokens=max_tokens,
            logit_bias=_biases(self.logit_bias or {}),
            logprobs=logprobs,
            constraint=constraint,
        )
        seeds = [None if self.seed is None else (self.seed + number) & _SEED_MASK for number in range(self.n or 1)]
        return tuple(replace(sampling, seed=seed) for seed in seeds)


BodyT = TypeVar("BodyT", bound=GenerationFields)


def parse_body(raw: dict[str, object], kind: type[BodyT], inert: Inert) -> BodyT:
    """Return a typed body. Raises UsageError with `param` for a missing, wrong or unsupported field."""
    refuse_fields(raw, inert)
    body = typed(raw, kind)
    _check_stream_options(raw, streamed=bool(body.stream))
    check_text(body.model, "model")
    for text in (body.stop,) if isinstance(body.stop, str) else body.stop or ():
        check_text(text, "stop")
    return body


def refuse_fields(raw: Mapping[str, object], inert: Inert) -> None:
    """Raises UsageError for a field that is known and not supported, and for an adapter that is not named by a text."""
    refuse_unsupported(raw, inert, remedies=REMEDIES)
    for name in ADAPTER_FIELDS:
        value = raw.get(name)
        if value is not None and not (isinstance(value, str) and value):
            raise UsageError("invalid_value", f"The field {name!r} is not a name.", NAME_IN_MODEL, param=name)
        if isinstance(value, str):
            check_text(value, name)


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
