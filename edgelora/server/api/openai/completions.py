"""The text completion: its body, its prompt, the start of its generation, and the writer of its choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from edgelora.core.errors import ContextTooLong
from edgelora.core.events import FinishReason, TextDelta
from edgelora.core.sampling_params import MAX_LOGPROBS, SamplingParams
from edgelora.engine.stream import Stream
from edgelora.runtime.interface import Runtime
from edgelora.server.generation.choice_writer import ChoiceEnd, Delta, Fields, completion_logprobs, scored, text_of
from edgelora.server.generation.known_fields import COMPLETION_INERT
from edgelora.server.generation.request_adapters import request_adapters
from edgelora.server.generation.request_body import GenerationFields, TokenId, client_of, parse_body
from edgelora.server.generation.sse import ReplyShape
from edgelora.server.generation.started import StartedGeneration, begin_all
from edgelora.server.http.validation import check_text, invalid

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default of `max_tokens` in this API; chat completions have none."""
MAX_PROMPTS = 16
MAX_ANSWERS = 64
"""Maximum number of answers to all prompts of a request together."""

Prompt = str | tuple[int, ...]
"""A text or token ids."""


class CompletionBody(GenerationFields, frozen=True, kw_only=True):
    prompt: str | list[str | TokenId | list[TokenId]]
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None


def start_completion(runtime: Runtime, raw: dict[str, object]) -> StartedGeneration:
    """Parse a body and start its generation. Raises UsageError, NotFound and what the runtime raises."""
    return begin_completion(runtime, raw)[0]


def begin_completion(
    runtime: Runtime, raw: dict[str, object], *, scored: bool = False
) -> tuple[StartedGeneration, Callable[[int], CompletionWriter]]:
    """Start a completion, and return also what makes its writers, for APIs that write choices otherwise.

    `scored`: compute the logprobs of the answer's tokens even if the body does not ask for them. Raises as
    `start_completion`.
    """
    body = parse_body(raw, CompletionBody, COMPLETION_INERT)
    prompts, each = _prompts(body.prompt), body.n or 1
    if len(prompts) * each > MAX_ANSWERS:
        raise invalid("n", f"asks for {len(prompts) * each} answers to all prompts; at most {MAX_ANSWERS} are allowed")
    adapters = request_adapters(runtime, body)
    limit = body.limit(DEFAULT_MAX_TOKENS)
    logprobs = 0 if scored and body.logprobs is None else body.logprobs
    samplings = body.samplings(runtime.default_sampling(), max_tokens=limit, logprobs=logprobs)
    writers = [CompletionWriter(_echo(body, prompt, runtime), body.logprobs) for prompt in prompts]

    def submit(part: tuple[Prompt, SamplingParams]) -> Stream:
        prompt, sampling = part
        return runtime.complete(prompt, adapters=adapters, sampling=sampling, client=client_of(raw))

    def writer(choice: int) -> CompletionWriter:
        return writers[choice // each]

    try:
        streams = begin_all([(prompt, sampling) for prompt in prompts for sampling in samplings], submit)
    except ContextTooLong as error:
        error.param = "prompt"
        raise
    return StartedGeneration(body, adapters, streams, writer, prompts=len(prompts)), writer


def _echo(body: CompletionBody, prompt: Prompt, runtime: Runtime) -> str:
    """Return the text of the prompt if the body asks to echo it before the answer."""
    if not body.echo:
        return ""
    if body.logprobs is not None:
        raise invalid("echo", "is not supported together with 'logprobs': those of a prompt are not computed")
    if isinstance(prompt, str):
        return prompt
    tokenizer = runtime.tokenizer
    valid = [token for token in prompt if token < tokenizer.size]  # The engine refuses the others.
    return b"".join(map(tokenizer.piece, valid)).decode(errors="replace")


def _prompts(prompt: str | list[str | int | list[int]]) -> tuple[Prompt, ...]:
    """Return the prompts, each as text or token ids. Raises UsageError for none, for too many, and for a mixture."""
    if isinstance(prompt, str):
        return (_single(prompt),)
    ids = [item for item in prompt if isinstance(item, int)]
    if len(ids) == len(prompt):
        return (_single(ids),)
    several = [item for item in prompt if not isinstance(item, int)]
    if len({type(item) for item in prompt}) > 1:
        raise invalid("prompt", "mixes texts, token ids and lists of token ids: send prompts of one kind")
    if len(several) > MAX_PROMPTS:
        raise invalid("prompt", f"has {len(several)} prompts; at most {MAX_PROMPTS} are allowed in a request")
    return tuple(_single(item) for item in several)


def _single(prompt: str | list[int]) -> Prompt:
    if isinstance(prompt, str):
        check_text(prompt, "prompt")
        return prompt
    if not prompt:
        raise invalid("prompt", "has no tokens")
    return tuple(prompt)


@dataclass(frozen=True, slots=True)
class CompletionWriter:
    """Writes the choices of text completions."""

    echo: str = ""
    """The text before the answer."""
    logprobs: int | None = None
    """Number of likeliest tokens to write beside each token; None: write no logprobs."""

    def opening(self) -> Sequence[Delta]:
        return (Delta({"text": self.echo}),) if self.echo else ()

    def more(self, delta: TextDelta) -> Sequence[Delta]:
        return (Delta({"text": delta.text}, self._logprobs([delta])),)

    def closing(self, reason: FinishReason) -> ChoiceEnd:
        return ChoiceEnd((Delta({"text": ""}),), str(reason))

    def whole_choice(self, deltas: Sequence[TextDelta], reason: FinishReason) -> ChoiceEnd:
        return ChoiceEnd((Delta({"text": self.echo + text_of(deltas)}, self._logprobs(deltas)),), str(reason))

    def _logprobs(self, deltas: Sequence[TextDelta]) -> Fields | None:
        return None if self.logprobs is None else completion_logprobs(scored(deltas), tops=self.logprobs > 0)


COMPLETION = ReplyShape(id_prefix="cmpl-", object="text_completion", chunk_object="text_completion")
