"""POST /v1/completions: the body, its prompt, and how the answer is worded."""

from __future__ import annotations

from edgelora.errors import ContextTooLong
from edgelora.server.acting import acting
from edgelora.server.generate import Job
from edgelora.server.runtime import Runtime
from edgelora.server.schemas import (
    COMPLETION_INERT,
    Generation,
    TokenId,
    check_text,
    client_of,
    invalid,
    parse_body,
)
from edgelora.server.sse import Fields, Shape

DEFAULT_MAX_TOKENS = 16
"""What this API has always meant by leaving `max_tokens` out; chat has no such bound."""


class CompletionBody(Generation, frozen=True, kw_only=True):
    prompt: str | list[str | TokenId | list[TokenId]]


def start_completion(runtime: Runtime, raw: dict[str, object]) -> Job:
    """Parse a body and begin its answer. Raises UsageError, NotFound and what the runtime raises."""
    body = parse_body(raw, CompletionBody, COMPLETION_INERT)
    prompt = _prompt(body.prompt)
    adapters = acting(runtime, body)
    limit = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    sampling = body.sampling(runtime.default_sampling(), max_tokens=limit)
    try:
        stream = runtime.complete(prompt, adapters=adapters, sampling=sampling, client=client_of(raw))
        return Job(body, adapters, stream)
    except ContextTooLong as error:
        error.param = "prompt"
        raise


def _prompt(prompt: str | list[str | int | list[int]]) -> str | tuple[int, ...]:
    """A text or token ids; a list of one of either counts as that one."""
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        return _single(prompt[0])
    if isinstance(prompt, str):
        return _single(prompt)
    ids = [item for item in prompt if isinstance(item, int)]
    if len(ids) < len(prompt):
        raise invalid("prompt", "holds several prompts, and one is answered per request")
    return _single(ids)


def _single(prompt: str | list[int]) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        check_text(prompt, "prompt")
        return prompt
    if not prompt:
        raise invalid("prompt", "holds no tokens")
    return tuple(prompt)


def _choice(text: str) -> Fields:
    return {"text": text}


COMPLETION = Shape(
    id_prefix="cmpl-",
    object="text_completion",
    chunk_object="text_completion",
    whole=_choice,
    opening=None,
    delta=_choice,
    closing=lambda: {"text": ""},
)
