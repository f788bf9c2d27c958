"""Groq's dialect: what its clients read where it differs from OpenAI's.

Its clients are known by their User-Agent: Groq's packages for Python and TypeScript, langchain-groq and @ai-sdk/groq,
which read the usage of a stream here. Nothing changes for all others.
"""

from __future__ import annotations

import re
from dataclasses import replace

from starlette.datastructures import Headers

from edgelora.core.events import Usage
from edgelora.server.api.openai.chat import CHAT
from edgelora.server.api.openai.dialect import OPENAI
from edgelora.server.generation.choice_writer import Fields
from edgelora.server.generation.dialect import Dialect, GenerationFormat
from edgelora.server.generation.sse import usage_fields

_AGENT = re.compile(r"(?:^|\s)(?:(?:Async)?Groq|langchain|ai-sdk/groq)/")


def from_groq(headers: Headers) -> bool:
    return _AGENT.search(headers.get("user-agent", "")) is not None


def _finish(fields: Fields) -> Fields:
    """Return a chunk as it is, and a whole reply with its id in Groq's field."""
    return fields if fields["object"] == CHAT.chunk_object else _first(fields)


def _first(fields: Fields) -> Fields:
    return {**fields, "x_groq": {"id": _request_id(fields)}}


def _last(fields: Fields, usage: Usage) -> Fields:
    return {**fields, "x_groq": {"id": _request_id(fields), "usage": usage_fields(usage)}}


def _request_id(fields: Fields) -> str:
    return f"req_{str(fields['id']).removeprefix(CHAT.id_prefix)}"


GROQ = Dialect(
    chat=GenerationFormat(
        OPENAI.chat.start, replace(CHAT, finish=_finish, first=_first, last=_last, service_tier="on_demand")
    ),
    completion=OPENAI.completion,
    list_models=OPENAI.list_models,
    is_spoken=from_groq,
)
