"""The chat completion: its body, its messages, and the start of its generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from edgelora.core.errors import UsageError
from edgelora.core.sampling_params import MAX_LOGPROBS, SamplingParams
from edgelora.engine.stream import Stream
from edgelora.runtime.interface import Runtime
from edgelora.server.api.openai.chat_writer import ChatFormat, ChatWriter
from edgelora.server.generation.known_fields import CHAT_INERT
from edgelora.server.generation.request_adapters import request_adapters
from edgelora.server.generation.request_body import (
    CountOrAll,
    GenerationFields,
    ServiceTier,
    client_of,
    parse_body,
)
from edgelora.server.generation.sse import ReplyShape
from edgelora.server.generation.started import StartedGeneration, begin_all
from edgelora.server.generation.tool_request import (
    MAX_TOOLS,
    Choice,
    FunctionName,
    ResponseFormat,
    Toolbox,
    ToolSpec,
    answer_schema,
    is_json_object,
    naming,
    toolbox,
)
from edgelora.server.http.endpoint import Inert
from edgelora.server.http.validation import check_text, invalid, missing, refuse_unsupported, unsupported
from edgelora.text.prompt import Message
from edgelora.text.tools import ToolCall

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""The roles that a message may have, and the template's name of each. `developer` is the newer name of `system`."""

_PART_TYPES = frozenset({"image_url", "input_audio", "file", "refusal"})
_MESSAGE_INERT: Inert = {"function_call": (), "audio": (), "refusal": ()}
_MAY_BE_EMPTY = ("assistant", "tool")
"""The roles whose messages clients send without content: a call, or a function that returned nothing."""


class Part(Struct, frozen=True):
    """A part of a message's content."""

    type: str
    text: str | None = None


class FormerFunction(Struct, frozen=True):
    name: FunctionName
    arguments: str
    """A JSON object as text; an empty text is an empty object. Any other text is passed on as it is."""


class FormerCall(Struct, frozen=True):
    id: str
    function: FormerFunction
    type: Literal["function"] = "function"


class ChatMessage(Struct, frozen=True):
    role: str
    content: str | list[Part] | None = None
    name: Annotated[str, Meta(max_length=64)] | None = None
    tool_calls: list[FormerCall] | None = None
    tool_call_id: str | None = None


class ChatBody(GenerationFields, frozen=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: CountOrAll | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[ToolSpec], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    service_tier: ServiceTier | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


def start_chat(runtime: Runtime, raw: dict[str, object]) -> StartedGeneration:
    """Parse a body and start its generation. Raises UsageError, NotFound and what the runtime raises."""
    return begin_chat(runtime, raw)[0]


def begin_chat(runtime: Runtime, raw: dict[str, object]) -> tuple[StartedGeneration, ChatFormat]:
    """Start a chat, and return also the format of its choices, for APIs that write them otherwise.

    Raises as `start_chat`.
    """
    body = parse_body(raw, ChatBody, CHAT_INERT)
    messages = chat_messages(body.messages, raw)
    box = chat_tools(body)
    schema = answer_schema(body.response_format)
    constraint = box.constraint(schema)
    _check_combinations(body, box)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    limit, continued = body.limit(), continues(body)
    adapters = request_adapters(runtime, body)
    samplings = body.samplings(runtime.default_sampling(), max_tokens=limit, logprobs=logprobs, constraint=constraint)

    def submit(sampling: SamplingParams) -> Stream:
        return runtime.chat(
            messages,
            adapters=adapters,
            sampling=sampling,
            client=client_of(raw),
            tools=box.tools,
            continued=continued,
        )

    with naming("response_format" if schema is not None and not box.must else "tools"):
        streams = begin_all(samplings, submit)
    chat_format = ChatFormat(bool(body.logprobs), box.parser if box.may else None, box.several)
    return StartedGeneration(body, adapters, streams, lambda _choice: ChatWriter(chat_format)), chat_format


def chat_tools(body: ChatBody) -> Toolbox:
    """Return the functions of a body. Raises UsageError naming the field."""
    return toolbox(body.tools, body.tool_choice, body.parallel_tool_calls)


def _check_combinations(body: ChatBody, box: Toolbox) -> None:
    """Raises UsageError for fields that cannot be combined."""
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs", "is only allowed together with 'logprobs': true")
    if body.logprobs and box.may:
        raise invalid(
            "logprobs", "is not supported for answers that may call functions: leave out 'logprobs' or 'tools'"
        )


def continues(body: ChatBody) -> bool:
    """Return whether the answer continues the last message.

    Raises UsageError for one that cannot be continued, and for a template that is to end otherwise.
    """
    if not body.continue_final_message:
        if body.add_generation_prompt is False:
            raise invalid("add_generation_prompt", "may be false only together with 'continue_final_message': true")
        return False
    if body.add_generation_prompt:
        raise invalid("add_generation_prompt", "begins a new message: send false with 'continue_final_message'")
    if body.messages[-1].role != "assistant" or body.messages[-1].tool_calls:
        raise invalid("continue_final_message", "needs an assistant's message without calls at the end of 'messages'")
    return True


def chat_messages(messages: Sequence[ChatMessage], raw: dict[str, Any]) -> list[Message]:
    """Return the messages for the template. `raw`: the body that has them. Raises UsageError naming the field."""
    return [
        _message(message, given, f"messages[{index}].")
        for index, (message, given) in enumerate(zip(messages, raw["messages"], strict=True))
    ]


def _message(message: ChatMessage, given: Mapping[str, object], at: str) -> Message:
    refuse_unsupported(given, _MESSAGE_INERT, at=at)
    if message.role == "function":
        raise unsupported(f"{at}role", tuple(ROLES))
    if message.role not in ROLES:
        raise invalid(f"{at}role", f"must be one of {', '.join(ROLES)}")
    calls = _calls(message, at)
    if message.role == "tool" and message.tool_call_id is None:
        raise missing(f"{at}tool_call_id")
    text, name = _content(message, f"{at}content"), message.name or ""
    check_text(text, f"{at}content")
    check_text(name, f"{at}name")
    return Message(ROLES[message.role], text, calls, message.tool_call_id or "", name)


def _content(message: ChatMessage, at: str) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    if not content and message.role in _MAY_BE_EMPTY:
        return ""
    if content is None:
        raise missing(at)
    return _joined(content, at)


def _calls(message: ChatMessage, at: str) -> tuple[ToolCall, ...]:
    if message.tool_calls and message.role != "assistant":
        raise invalid(f"{at}tool_calls", "is only allowed in an assistant's message")
    return tuple(_call(call, f"{at}tool_calls[{index}]") for index, call in enumerate(message.tool_calls or ()))


def _call(call: FormerCall, at: str) -> ToolCall:
    arguments = call.function.arguments.strip() or "{}"
    check_text(arguments, f"{at}.function.arguments")
    return ToolCall(call.id, call.function.name, arguments, complete=is_json_object(arguments))


def _joined(parts: list[Part], at: str) -> str:
    """Return the texts of the parts, joined with newlines."""
    if not parts:
        raise invalid(at, "must hold at least one part")
    return "\n".join(_part_text(part, f"{at}[{index}]") for index, part in enumerate(parts))


def _part_text(part: Part, at: str) -> str:
    if part.type in _PART_TYPES:
        raise UsageError(
            "unsupported_parameter",
            f"The content type {part.type!r} is not supported.",
            "Send text.",
            param=f"{at}.type",
        )
    if part.type != "text":
        raise invalid(f"{at}.type", "must be 'text'")
    if part.text is None:
        raise missing(f"{at}.text")
    return part.text


CHAT = ReplyShape(
    id_prefix="chatcmpl-",
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    service_tier="default",
)
