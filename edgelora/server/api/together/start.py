"""Requests of Together's clients: what they ask for otherwise than OpenAI's do, and their answers' wording."""

from __future__ import annotations

from dataclasses import replace

from edgelora.runtime.interface import Runtime
from edgelora.server.api.openai.chat import begin_chat
from edgelora.server.api.openai.chat_writer import ChatWriter
from edgelora.server.api.openai.completions import begin_completion
from edgelora.server.api.together.writer import TogetherChatWriter, TogetherCompletionWriter
from edgelora.server.generation.generate import Job


def start_together_chat(runtime: Runtime, raw: dict[str, object]) -> Job:
    """`logprobs` may be how many likeliest tokens are wanted. Raises as `start_chat`."""
    count = raw.get("logprobs")
    if isinstance(count, int) and not isinstance(count, bool):
        raw = {**raw, "logprobs": True, "top_logprobs": count}
    job, chat_format = begin_chat(runtime, raw)
    return replace(job, writer=lambda: TogetherChatWriter(ChatWriter(chat_format)))


def start_together_completion(runtime: Runtime, raw: dict[str, object]) -> Job:
    """The tokens of a stream are always scored: no chunk is without one. Raises as `start_completion`."""
    job, writer = begin_completion(runtime, raw, scored=bool(raw.get("stream")))
    return replace(job, writer=lambda: TogetherCompletionWriter(writer))
