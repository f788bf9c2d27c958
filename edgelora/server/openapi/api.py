"""The operations that applications use: generation, tokens, models, responses, probes."""

from __future__ import annotations

from edgelora.server.api.openai.chat import ChatBody
from edgelora.server.api.openai.completions import CompletionBody
from edgelora.server.api.openai.embeddings import EmbeddingsBody
from edgelora.server.api.openai.tokenize import (
    TOKENIZE_INERT,
    DetokenizeBody,
    Detokenized,
    InputTokens,
    TokenizeBody,
    Tokenized,
)
from edgelora.server.api.responses import body as responses_body
from edgelora.server.api.responses.types import DeletedResponse, ItemList, ResponseObject
from edgelora.server.generation.request_body import CHAT_INERT, COMPLETION_INERT
from edgelora.server.http.endpoint import Operation, Parameter
from edgelora.server.openapi import replies
from edgelora.server.openapi.management import MANAGEMENT
from edgelora.server.page.routes import FILES
from edgelora.server.telemetry.status import Status

_PAGE = (
    Parameter("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}, "How many at most."),
    Parameter("order", {"enum": ["asc", "desc"], "default": "desc"}, "The latest first, or the first."),
    Parameter("after", {"type": "string"}, "Those behind the item with this id."),
)


def _tokens(prefix: str, name: str) -> tuple[Operation, ...]:
    return (
        Operation(
            "POST", f"{prefix}/tokenize", f"{name}tokenize", "A text or a conversation as tokens",
            body=TokenizeBody, inert=TOKENIZE_INERT, reply=Tokenized,
        ),
        Operation(
            "POST", f"{prefix}/detokenize", f"{name}detokenize", "Tokens as text",
            body=DetokenizeBody, reply=Detokenized,
        ),
    )  # fmt: skip


_NO_SIGNS = str.maketrans("", "", "/.")
_FILES = tuple(
    Operation("GET", path, f"page{path.title().translate(_NO_SIGNS)}", "A file of the page", media=kind.split(";")[0])
    for path, (_, kind) in FILES.items()
)
"""What a browser asks for."""

API: tuple[Operation, ...] = (
    Operation("GET", "/health", "health", "Whether the process lives", reply=replies.State),
    Operation("GET", "/ready", "ready", "Whether a request sent now would be worked on", reply=replies.State),
    Operation("GET", "/openapi.json", "openapi", "This document", reply=dict),
    Operation("GET", "/v1/status", "status", "What the server holds and does now", reply=Status),
    Operation("GET", "/metrics", "metrics", "The same for Prometheus", media="text/plain"),
    *_FILES,
    Operation("GET", "/v1/models", "listModels", "The base and its adapters", reply=replies.ModelList),
    Operation("GET", "/v1/models/{id}", "retrieveModel", "One of them, by any form of its name", reply=replies.Model),
    Operation(
        "POST", "/v1/chat/completions", "createChatCompletion", "An answer to a conversation",
        body=ChatBody, inert=CHAT_INERT, reply=replies.ChatCompletion, streamed=True,
    ),
    Operation(
        "POST", "/v1/completions", "createCompletion", "The continuation of a text",
        body=CompletionBody, inert=COMPLETION_INERT, reply=replies.Completion, streamed=True,
    ),
    Operation(
        "POST", "/v1/responses", "createResponse", "An answer, kept for going on from it",
        body=responses_body.ResponsesBody, inert=responses_body.OUTER_INERT, reply=ResponseObject, streamed=True,
    ),
    Operation("GET", "/v1/responses/{id}", "retrieveResponse", "A response that is kept", reply=ResponseObject),
    Operation("DELETE", "/v1/responses/{id}", "deleteResponse", "Forget a response", reply=DeletedResponse),
    Operation(
        "POST", "/v1/responses/{id}/cancel", "cancelResponse", "End one in the background",
        body=responses_body.CancelBody, reply=ResponseObject,
    ),
    Operation("GET", "/v1/responses/{id}/input_items", "listInputItems", "Its input", reply=ItemList, query=_PAGE),
    Operation(
        "POST", "/v1/responses/input_tokens", "countResponseTokens", "How many tokens such a body's prompt has",
        body=responses_body.CountBody, inert=responses_body.OUTER_INERT, reply=InputTokens,
    ),
    Operation(
        "POST", "/v1/chat/completions/input_tokens", "countChatTokens", "How many tokens such a body's prompt has",
        body=ChatBody, inert=CHAT_INERT, reply=InputTokens,
    ),
    *_tokens("", ""),
    *_tokens("/v1", "v1"),
    Operation(
        "POST", "/v1/embeddings", "createEmbedding", "Not supported",
        body=EmbeddingsBody, reply=replies.ErrorReply, status=501,
    ),
    *MANAGEMENT,
)  # fmt: skip
