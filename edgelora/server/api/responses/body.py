"""The body of POST /v1/responses: from JSON to items, or a UsageError naming the field."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from edgelora.core.errors import UsageError
from edgelora.core.sampling_params import MAX_LOGPROBS
from edgelora.server.api.responses.types import (
    FunctionCallItem,
    FunctionOutputItem,
    InputText,
    Item,
    MessageItem,
    OutputText,
    ReasoningItem,
)
from edgelora.server.generation.known_fields import RESPONSES_INERT
from edgelora.server.generation.request_body import ModelName, Positive, SamplingFields, ServiceTier, refuse_fields
from edgelora.server.generation.tool_request import FUNCTION_NAME, MAX_TOOLS, Choice, FunctionName
from edgelora.server.http.endpoint import Inert
from edgelora.server.http.validation import check_text, invalid, missing, refuse_unsupported, typed

_INNER_INERT: Inert = {
    "stream_options.include_obfuscation": (False,),
    "text.verbosity": ("low", "medium", "high"),
}
"""Unsupported fields within others, each with the values that change nothing."""

_ROLES = ("user", "assistant", "system", "developer")
_REFUSED_PARTS = frozenset({"input_image", "input_file", "input_audio", "refusal"})


class InputPart(Struct, frozen=True):
    """A part of a message's content: `input_text`, or `output_text` in an earlier answer."""

    type: str
    text: str | None = None


Content = str | list[InputPart]


class InputItem(Struct, frozen=True):
    """An item of `input`: a message, whose type may be left out, a function call, the output of one, or reasoning."""

    type: str = "message"
    id: str | None = None
    role: str | None = None
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None
    summary: list[Any] | None = None


class ResponsesStreamOptions(Struct, frozen=True):
    include_obfuscation: bool | None = None


class TextFormat(Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None


class TextConfig(Struct, frozen=True):
    format: TextFormat | None = None
    verbosity: str | None = None


class FunctionTool(Struct, frozen=True):
    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Accepted and ignored: the arguments of a required call always match `parameters`."""


LOGPROBS = "message.output_text.logprobs"
Included = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]
"""The second is accepted and ignored: answers have no reasoning."""


MetadataText = Annotated[str, Meta(max_length=512)]


class ResponsesBody(SamplingFields, frozen=True, kw_only=True):
    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | None = None
    previous_response_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    store: bool | None = None
    background: bool | None = None
    service_tier: ServiceTier | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    max_output_tokens: Positive | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    include: list[Included] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    metadata: Annotated[dict[Annotated[str, Meta(max_length=64)], MetadataText], Meta(max_length=16)] | None = None


class CountBody(ResponsesBody, frozen=True, kw_only=True):
    """The same for counting tokens, where `model` is optional: the count is the same for every model."""

    model: ModelName | None = None  # type: ignore[assignment]


class CancelBody(Struct, frozen=True):
    """An empty JSON object."""


def parse_responses(raw: dict[str, object]) -> ResponsesBody:
    """Return a typed body. Raises UsageError with `param` for a missing, wrong or unsupported field."""
    _refuse(raw)
    body = typed(raw, ResponsesBody)
    check_text(body.model, "model")
    if body.instructions is not None:
        check_text(body.instructions, "instructions")
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options", "is only allowed together with 'stream': true")
    if body.top_logprobs and LOGPROBS not in (body.include or ()):
        raise invalid("top_logprobs", f"is only allowed together with {LOGPROBS!r} in 'include'")
    if body.background and body.stream:
        raise invalid("background", "cannot be streamed: send one of 'background' and 'stream'")
    if body.background and body.store is False:
        raise invalid("background", "needs 'store': true, so that the response can be retrieved")
    return body


def _refuse(raw: Mapping[str, Any]) -> None:
    refuse_fields(raw, RESPONSES_INERT)
    for path, accepted in _INNER_INERT.items():
        outer, _, name = path.partition(".")
        inner = raw.get(outer)
        if isinstance(inner, dict):
            refuse_unsupported(inner, {name: accepted}, at=f"{outer}.")


def input_items(body: ResponsesBody) -> tuple[Item, ...]:
    """Return the items of the input, each with an id. Raises UsageError naming the item's field."""
    if isinstance(body.input, str):
        check_text(body.input, "input")
        return (MessageItem(id=new_id("msg"), role="user", content=[InputText(body.input)]),)
    return tuple(_item(item, f"input[{index}].") for index, item in enumerate(body.input))


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _item(item: InputItem, at: str) -> Item:
    if item.type == "message":
        return _message(item, at)
    if item.type == "function_call":
        name, arguments = _given(item.name, f"{at}name"), _given(item.arguments, f"{at}arguments")
        if re.fullmatch(FUNCTION_NAME, name) is None:
            raise invalid(f"{at}name", "must be the name of a function: 1 to 64 letters, digits, '_' and '-'")
        call_id = _given(item.call_id, f"{at}call_id")
        return FunctionCallItem(id=item.id or new_id("fc"), call_id=call_id, name=name, arguments=arguments)
    if item.type == "function_call_output":
        if item.output is None:
            raise missing(f"{at}output")
        output = "\n".join(_texts(item.output, f"{at}output"))
        return FunctionOutputItem(
            id=item.id or new_id("fco"), call_id=_given(item.call_id, f"{at}call_id"), output=output
        )
    if item.type == "reasoning":
        return ReasoningItem(id=item.id or new_id("rs"), summary=item.summary or [])
    raise UsageError(
        "unsupported_parameter",
        f"The item type {item.type!r} is not supported.",
        "Send messages, function calls and their outputs.",
        param=f"{at}type",
    )


def _message(item: InputItem, at: str) -> MessageItem:
    role: Any = _given(item.role, f"{at}role")
    if role not in _ROLES:
        raise invalid(f"{at}role", f"must be one of {', '.join(_ROLES)}")
    if not item.content and role == "assistant":
        return MessageItem(id=item.id or new_id("msg"), role=role, content=[])
    if item.content is None:
        raise missing(f"{at}content")
    kind = OutputText if role == "assistant" else InputText
    content = [kind(text) for text in _texts(item.content, f"{at}content")]
    return MessageItem(id=item.id or new_id("msg"), role=role, content=content)


def _given(text: str | None, at: str) -> str:
    if text is None:
        raise missing(at)
    check_text(text, at)
    return text


def _texts(content: Content, at: str) -> list[str]:
    if isinstance(content, str):
        check_text(content, at)
        return [content]
    if not content:
        raise invalid(at, "must hold at least one part")
    return [_part_text(part, f"{at}[{index}]") for index, part in enumerate(content)]


def _part_text(part: InputPart, at: str) -> str:
    if part.type in _REFUSED_PARTS:
        raise UsageError(
            "unsupported_parameter",
            f"The content type {part.type!r} is not supported.",
            "Send text.",
            param=f"{at}.type",
        )
    if part.type not in ("input_text", "output_text", "text"):
        raise invalid(f"{at}.type", "must be 'input_text' or 'output_text'")
    if part.text is None:
        raise missing(f"{at}.text")
    check_text(part.text, f"{at}.text")
    return part.text
