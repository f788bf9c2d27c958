"""OpenAI's own dialect, which every client speaks that is not known to speak another."""

from __future__ import annotations

from edgelora.server.api.openai.chat import CHAT, start_chat
from edgelora.server.api.openai.completions import COMPLETION, start_completion
from edgelora.server.generation.choice_writer import Fields
from edgelora.server.generation.dialect import Dialect, GenerationFormat


def _list_models(models: list[Fields]) -> object:
    return {"object": "list", "data": models}


OPENAI = Dialect(
    chat=GenerationFormat(start_chat, CHAT),
    completion=GenerationFormat(start_completion, COMPLETION),
    list_models=_list_models,
)
