"""Types of the replies of the Responses API: items, the response object, lists. msgspec writes them as JSON."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

Status = Literal["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputText(Struct, frozen=True, tag_field="type", tag="input_text"):
    text: str


class LikelyPiece(Struct, frozen=True):
    token: str
    bytes: list[int]
    logprob: float


class ChosenPiece(LikelyPiece, frozen=True):
    top_logprobs: list[LikelyPiece]


class OutputText(Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str
    annotations: list[Any] = field(default_factory=list)
    logprobs: list[ChosenPiece] = field(default_factory=list)


class MessageItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A message of the input or of the answer."""

    id: str
    role: Literal["user", "system", "developer", "assistant"]
    content: list[InputText | OutputText]
    status: ItemStatus = "completed"

    @property
    def text(self) -> str:
        """The texts of the parts, joined with newlines."""
        return "\n".join(part.text for part in self.content)


class FunctionCallItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str
    """A JSON object as text; cut short if the status is `incomplete`."""
    status: ItemStatus = "completed"


class FunctionOutputItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call_output"):
    id: str
    call_id: str
    output: str
    status: ItemStatus = "completed"


class ReasoningItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """What another model thought. No prompt has it."""

    id: str
    summary: list[Any]


Item = MessageItem | FunctionCallItem | FunctionOutputItem | ReasoningItem
"""An item of a conversation."""


class InputTokensDetails(Struct, frozen=True):
    cached_tokens: int
    """Number of prompt tokens that were in the KV cache."""
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct, frozen=True):
    reasoning_tokens: int = 0


class ResponseUsage(Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class ResponseFault(Struct, frozen=True):
    code: Literal["server_error"]
    message: str


class IncompleteDetails(Struct, frozen=True):
    reason: Literal["max_output_tokens"]


class ResponseObject(Struct, frozen=True, kw_only=True):
    """A response in any state."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    """Time in Unix seconds."""
    completed_at: int | None = None
    status: Status
    background: bool = False
    error: ResponseFault | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[Item] = field(default_factory=list)
    parallel_tool_calls: bool
    previous_response_id: str | None
    service_tier: Literal["default"] | None = None
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int = 0
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None


class DeletedResponse(Struct, frozen=True):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ItemList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool
