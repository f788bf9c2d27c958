"""POST /v1/chat/completions and /v1/completions, in every dialect that the server speaks."""

from __future__ import annotations

from edgelora.runtime.interface import Runtime
from edgelora.server.api.openai.chat import ChatBody
from edgelora.server.api.openai.completions import CompletionBody
from edgelora.server.api.openai.replies import ChatCompletion, Completion
from edgelora.server.generation.dialect import Dialects
from edgelora.server.generation.generate import GenerationApp
from edgelora.server.generation.known_fields import CHAT_INERT, COMPLETION_INERT
from edgelora.server.http.drain import Drain
from edgelora.server.http.endpoint import Access, Endpoint
from edgelora.server.http.options import ServerOptions


def generation_endpoints(
    runtime: Runtime, options: ServerOptions, drain: Drain, dialects: Dialects
) -> tuple[Endpoint, ...]:
    chat = GenerationApp(runtime, options, drain, dialects, lambda dialect: dialect.chat)
    completion = GenerationApp(runtime, options, drain, dialects, lambda dialect: dialect.completion)
    return (
        Endpoint(
            "POST", "/v1/chat/completions", chat, Access.KEY, "createChatCompletion", "Create a chat completion",
            body=ChatBody, inert=CHAT_INERT, reply=ChatCompletion, streamed=True, metered=True,
        ),
        Endpoint(
            "POST", "/v1/completions", completion, Access.KEY, "createCompletion", "Create a completion",
            body=CompletionBody, inert=COMPLETION_INERT, reply=Completion, streamed=True, metered=True,
        ),
    )  # fmt: skip
