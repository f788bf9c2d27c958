"""A base's chat template, compiled once and rendered in a sandbox, with tools natively or described in words.

Owns no tokens: `prompt.py` tokenizes the rendered text. Only the base's own template is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from edgelora.core.clock import strftime_now
from edgelora.core.errors import UsageError
from edgelora.core.tokenizer import Tokenizer
from edgelora.text.tools import Tool, ToolCall, Turn, in_call_order, in_words, one_call_each

if TYPE_CHECKING:
    from jinja2 import Template

_PROBE, _RESULT = "edgelora_probe", "edgelora_result"


def render(
    source: str,
    turns: Sequence[Turn],
    specs: Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    *,
    open_turn: bool = True,
) -> str:
    """Return a conversation's text up to the start of the assistant's next message. `specs`: callable functions.

    Without `open_turn` the text ends with the last message.

    Raises UsageError: code bad_messages if the template refuses the messages, bad_template if the template is at fault.
    """
    turns = in_call_order(turns)
    called = any(turn["role"] == "tool" or "tool_calls" in turn for turn in turns)
    if (specs or called) and not knows_tools(source):
        turns, specs = in_words(turns, specs), ()
    try:
        try:
            return _render(source, turns, specs, tokenizer, open_turn)
        except _Refused:
            single = one_call_each(turns)
            if len(single) == len(turns):
                raise
            return _render(source, single, specs, tokenizer, open_turn)
    except _Refused as refusal:
        message = f"The base's chat template refuses these messages: {refusal}."
        raise UsageError("bad_messages", message, "Change their roles or order.", param="messages") from None
    except UsageError:
        raise
    except Exception as error:  # A template is a program from a file: it may raise anything.
        raise _bad_template(error) from error


@lru_cache(maxsize=8)
def knows_tools(source: str) -> bool:
    """Return True if a function, a call of it and its result all appear in the rendered template."""
    same = str
    turns: list[Turn] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [ToolCall("1", _PROBE, "{}").spec(same)]},
        {"role": "tool", "content": _RESULT, "tool_call_id": "1"},
    ]
    spec = Tool(_PROBE, "{}").spec(same)
    try:
        text = _compile(source).render(
            messages=turns, tools=[spec], bos_token="", eos_token="", add_generation_prompt=True
        )
    except Exception:  # It does not matter what a template that cannot take them does instead.
        return False
    return text.count(_PROBE) >= 2 and _RESULT in text


def _render(
    source: str, turns: Sequence[Turn], specs: Sequence[dict[str, Any]], tokenizer: Tokenizer, open_turn: bool
) -> str:
    given = {"tools": list(specs)} if specs else {}
    return _compile(source).render(
        messages=list(turns),
        bos_token=tokenizer.bos_text,
        eos_token=tokenizer.eos_text,
        add_generation_prompt=open_turn,
        **given,
    )


class _Refused(Exception):
    """The template called raise_exception."""


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    """Compile a template as transformers does (utils/chat_template_utils.py): blocks trimmed, sandboxed, four
    helpers.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = strftime_now
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
    """Serialize as JSON, without the HTML escapes of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _bad_template(error: Exception) -> UsageError:
    message = f"The base's chat template does not work ({type(error).__name__}: {error})."
    return UsageError("bad_template", message, "Use a base with a working template, or send a bare text.")
