"""Together's dialect: what its clients send and read where it differs from OpenAI's.

Its clients are known by the User-Agent of the 2.x and 3.x packages. Nothing changes for all others.
"""

from __future__ import annotations

import re
from dataclasses import replace

from starlette.datastructures import Headers

from edgelora.runtime.interface import Runtime
from edgelora.server.api.openai.chat import CHAT, begin_chat
from edgelora.server.api.openai.chat_writer import ChatWriter
from edgelora.server.api.openai.completions import COMPLETION, begin_completion
from edgelora.server.api.together.reply_shape import together_shape
from edgelora.server.api.together.writer import TogetherChatWriter, TogetherCompletionWriter
from edgelora.server.generation.choice_writer import Fields
from edgelora.server.generation.dialect import Dialect, GenerationFormat
from edgelora.server.generation.started import StartedGeneration

_AGENT = re.compile(r"(?:Async)?Together/")


def from_together(headers: Headers) -> bool:
    return _AGENT.match(headers.get("user-agent", "")) is not None


def start_together_chat(runtime: Runtime, raw: dict[str, object]) -> StartedGeneration:
    """Start a chat in which `logprobs` may be the number of likeliest tokens. Raises as `start_chat`."""
    count = raw.get("logprobs")
    if isinstance(count, int) and not isinstance(count, bool):
        raw = {**raw, "logprobs": True, "top_logprobs": count}
    started, chat_format = begin_chat(runtime, raw)
    return replace(started, make_writer=lambda _choice: TogetherChatWriter(ChatWriter(chat_format)))


def start_together_completion(runtime: Runtime, raw: dict[str, object]) -> StartedGeneration:
    """Start a completion. A stream always has logprobs, as each chunk needs a token. Raises as `start_completion`."""
    started, make_writer = begin_completion(runtime, raw, scored=bool(raw.get("stream")))
    return replace(started, make_writer=lambda choice: TogetherCompletionWriter(make_writer(choice)))


def _list_models(models: list[Fields]) -> object:
    # Together's client expects the bare array that its own service sends.
    return [{**model, "type": "chat"} for model in models]


TOGETHER = Dialect(
    chat=GenerationFormat(start_together_chat, together_shape(CHAT)),
    completion=GenerationFormat(start_together_completion, together_shape(COMPLETION)),
    list_models=_list_models,
    is_spoken=from_together,
)
