"""From messages to token ids: the base's chat template, then its tokeniser. Runs in the request's thread, never in the
engine's.

Control tokens come from the template alone. Where a message spells one out, a sentinel (a private-use character that no
message has) is put inside it; the rendered text is split there and the parts are tokenised one by one, so the model
reads exactly the characters that were written, as plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

from edgelora.backends.base import Vocabulary
from edgelora.errors import UsageError

if TYPE_CHECKING:
    from jinja2 import Template

ROLES = ("system", "user", "assistant", "tool")
MAX_PROMPT_BYTES = 2 << 20
"""Of all messages, or of one text: no context holds more, and the tokeniser must not spend seconds on finding out."""

# Where to break up a message that spells a control token: they begin with one of the first in every known vocabulary;
# the second and third are there for the unknown ones.
_BREAKS = (re.compile(r"[<\[]"), re.compile(r"[^\w\s]"), re.compile(r".", re.DOTALL))
# A message's end that may be the first half of a control token, whose other half is the next message's beginning.
_OPEN_END = re.compile(r"[<\[](?=[^\s<>\[\]]*\s*\Z)")
# Two messages that begin with different characters, and so with different tokens.
_OPENINGS = ("A", "7")
_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """One of ROLES."""
    content: str


def encode_chat(messages: Sequence[Message], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Token ids of a conversation, up to where the assistant's next message begins. BOS stands there once.

    A base without a template gets plain lines, `role: content`, and `assistant:` at the end.
    Raises UsageError: code bad_messages (a role, an order or characters the template cannot take), bad_template (the
    base's template itself), prompt_too_large.
    """
    _check(messages)
    source = vocabulary.chat_template
    if source is None:
        lines = [f"{message.role}: {message.content}\n" for message in messages]
        return tuple(vocabulary.tokenize("".join(lines) + "assistant:", special=False, bos=True))
    sentinel = _sentinel(chain((source,), (message.content for message in messages)))
    guarded = [replace(m, content=_guard(m.content, sentinel, vocabulary)) for m in messages]
    text = _render(source, guarded, vocabulary)
    return tuple(_tokenize(text.split(sentinel), vocabulary))


def system_length(messages: Sequence[Message], tokens: Sequence[int], vocabulary: Vocabulary) -> int:
    """How many first tokens of a conversation do not depend on what follows its system message; 0 where it has none.

    `tokens`: what `encode_chat` gave for these messages. Found as what they share with the same system message before
    another user's words. Raises as `encode_chat` does.
    """
    if not messages or messages[0].role != "system":
        return 0
    said = messages[1].content.lstrip() if len(messages) > 1 else ""
    other = next(word for word in _OPENINGS if not said.startswith(word))
    return _common(tokens, encode_chat([messages[0], Message("user", other)], vocabulary))


def system_prefix(system: str, vocabulary: Vocabulary) -> tuple[int, ...]:
    """The tokens every conversation with this system message begins with. Raises as `encode_chat` does."""
    messages = [Message("system", system), Message("user", _OPENINGS[0])]
    tokens = encode_chat(messages, vocabulary)
    return tokens[: system_length(messages, tokens, vocabulary)]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    differ = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def encode_text(prompt: str, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Token ids of a text as it stands, BOS in front unless it is written there.

    Control tokens in it are control tokens: who sends a bare text writes the template too. Raises UsageError.
    """
    _check_size([prompt], param="prompt")
    return tuple(_tokenize([prompt], vocabulary))


def _tokenize(parts: Sequence[str], vocabulary: Vocabulary) -> Iterator[int]:
    bos = vocabulary.bos_text
    yield from vocabulary.tokenize(parts[0], special=True, bos=not (bos and parts[0].startswith(bos)))
    for part in parts[1:]:
        yield from vocabulary.tokenize(part, special=True, bos=False)


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise UsageError("bad_messages", "There are no messages.", "Send at least one.", param="messages")
    for message in messages:
        if message.role not in ROLES:
            what = f"A message has the role {message.role!r}."
            raise UsageError("bad_messages", what, f"Use one of {', '.join(ROLES)}.", param="messages")
    _check_size([message.content for message in messages], param="messages")


def _check_size(texts: Sequence[str], *, param: str) -> None:
    try:
        size = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError:
        what = "The text holds half of a surrogate pair, which is no character."
        raise UsageError("bad_messages", what, "Send well-formed Unicode.", param=param) from None
    if size > MAX_PROMPT_BYTES:
        what = f"The text has {size:,} bytes; at most {MAX_PROMPT_BYTES:,} are accepted."
        raise UsageError("prompt_too_large", what, "Shorten it.", param=param)


def _sentinel(texts: Iterator[str]) -> str:
    used = set(chain.from_iterable(texts))
    for code in chain.from_iterable(_PRIVATE_USE):
        if chr(code) not in used:
            return chr(code)
    raise UsageError("bad_messages", "The text uses every private-use character there is.", param="messages")


def _guard(content: str, sentinel: str, vocabulary: Vocabulary) -> str:
    """`content` with sentinels, so that tokenising its parts cannot give a control token, whatever follows it."""

    def harmless(text: str) -> bool:
        parts = text.split(sentinel)
        return all(
            vocabulary.tokenize(part, special=True, bos=False) == vocabulary.tokenize(part, special=False, bos=False)
            for part in parts
        )

    guarded = _OPEN_END.sub(lambda match: match[0] + sentinel, content)
    for place in _BREAKS:
        if harmless(guarded):
            break
        guarded = place.sub(lambda match: match[0] + sentinel, content)
    return guarded


def _render(source: str, messages: Sequence[Message], vocabulary: Vocabulary) -> str:
    template = _compile(source)
    try:
        return template.render(
            messages=[{"role": message.role, "content": message.content} for message in messages],
            bos_token=vocabulary.bos_text,
            eos_token=vocabulary.eos_text,
            add_generation_prompt=True,
        )
    except _Refused as refusal:
        what = f"The base's chat template refuses these messages: {refusal}."
        raise UsageError("bad_messages", what, "Change their roles or order.", param="messages") from None
    except Exception as error:  # A template is a program from a file: it may raise anything.
        raise _bad_template(error) from error


class _Refused(Exception):
    """The template called raise_exception."""


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    """As transformers does it (utils/chat_template_utils.py): blocks trimmed, sandboxed, four helpers."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise _bad_template(error) from error


def _refuse(message: str) -> NoReturn:
    raise _Refused(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Not jinja2's own, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _bad_template(error: Exception) -> UsageError:
    what = f"The base's chat template does not work ({type(error).__name__}: {error})."
    return UsageError("bad_template", what, "Use a base with a working template, or send a bare text.")
