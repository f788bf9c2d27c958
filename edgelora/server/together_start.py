"""Requests of Together's clients: what they ask for otherwise than OpenAI's do, and their answers' wording."""

from __future__ import annotations

from dataclasses import replace

from edgelora.server.chat import begin_chat
from edgelora.server.chat_wording import ChatWording
from edgelora.server.completions import begin_completion
from edgelora.server.generate import Job
from edgelora.server.runtime import Runtime
from edgelora.server.together_wording import TogetherChat, TogetherCompletion


def start_together_chat(runtime: Runtime, raw: dict[str, object]) -> Job:
    """`logprobs` may be how many likeliest tokens are wanted. Raises as `start_chat`."""
    count = raw.get("logprobs")
    if isinstance(count, int) and not isinstance(count, bool):
        raw = {**raw, "logprobs": True, "top_logprobs": count}
    job, manner = begin_chat(runtime, raw)
    return replace(job, wording=lambda: TogetherChat(ChatWording(manner)))


def start_together_completion(runtime: Runtime, raw: dict[str, object]) -> Job:
    """The tokens of a stream are always scored: no chunk is without one. Raises as `start_completion`."""
    job, wording = begin_completion(runtime, raw, scored=bool(raw.get("stream")))
    return replace(job, wording=lambda: TogetherCompletion(wording))
