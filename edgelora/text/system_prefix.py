"""The tokens of a conversation that belong to its system prompt: up to where the user's message begins. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from edgelora.core.kv import common_length
from edgelora.core.tokenizer import Tokenizer
from edgelora.text.prompt import Message, encode_chat
from edgelora.text.tools import Tool

# Two messages that begin with different characters, and so with different tokens.
_OPENINGS = ("A", "7")


def system_length(
    messages: Sequence[Message],
    tokens: Sequence[int],
    tokenizer: Tokenizer,
    *,
    tools: Sequence[Tool] = (),
    limit: int | None = None,
) -> int:
    """Return how many first tokens do not depend on what follows the system message; 0 where it has none.

    `tokens`: what `encode_chat` gave for these messages and `tools`. Found as what they share with the same system
    message before another user's words. Raises as `encode_chat` does, which reads `limit` too.
    """
    if not messages or messages[0].role != "system":
        return 0
    question = messages[1].content.lstrip() if len(messages) > 1 else ""
    other = next(word for word in _OPENINGS if not question.startswith(word))
    alike = encode_chat([messages[0], Message("user", other)], tokenizer, tools=tools, limit=limit)
    return common_length(list(tokens), list(alike))


def system_prefix(system: str, tokenizer: Tokenizer, *, limit: int | None = None) -> tuple[int, ...]:
    """Return the tokens every conversation with this system message begins with. Raises as `encode_chat` does."""
    messages = [Message("system", system), Message("user", _OPENINGS[0])]
    tokens = encode_chat(messages, tokenizer, limit=limit)
    return tokens[: system_length(messages, tokens, tokenizer, limit=limit)]
