"""Types of the replies of OpenAI's endpoints, for the OpenAPI document and for tests. Handlers write plain dicts."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class Model(Struct, frozen=True):
    """The base, or an adapter of it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    root: str
    resident: bool
    pinned: bool


class ModelList(Struct, frozen=True):
    object: Literal["list"]
    data: list[Model]


class CachedTokens(Struct, frozen=True):
    cached_tokens: int


class Usage(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class LikelyToken(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None


class ChosenToken(LikelyToken, frozen=True):
    top_logprobs: list[LikelyToken]


class ChatLogprobs(Struct, frozen=True):
    content: list[ChosenToken]
    refusal: None


class CalledFunction(Struct, frozen=True):
    name: str
    arguments: str
    """A JSON object, as text."""


class ChatToolCall(Struct, frozen=True):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatAnswer(Struct, frozen=True):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ChatToolCall] | UnsetType = UNSET


class ChatChoice(Struct, frozen=True):
    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Struct, frozen=True):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: Literal["default"]
    choices: list[ChatChoice]
    usage: Usage


class CompletionLogprobs(Struct, frozen=True):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(Struct, frozen=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Struct, frozen=True):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class File(Struct, frozen=True):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str


class FileList(Struct, frozen=True):
    object: Literal["list"]
    data: list[File]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Deleted(Struct, frozen=True):
    id: str
    object: str
    deleted: bool
