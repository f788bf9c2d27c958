"""Calls of functions in an answer's text: from pieces of text to words and calls. Pure; one reader for each answer.

Llama 3.1 writes `{"name": "f", "parameters": {...}}`, and so does the grammar that answers are held to where they must
call. Where they only may, what models really write is understood too: `arguments`, OpenAI's own wrapping,
`<function=f>{...}</function>`, Hermes' `<tool_call>` around it, a brace forgotten at the end, words before a call. A
function nobody offered is words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from edgelora.text.schema_grammar import CALL_OPENING

MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class TextPart:
    """A further piece of the answer's text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The beginning of another call; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the latest call's arguments: together a JSON object, unless the answer is cut by its length."""

    text: str


Part = TextPart | CallBegun | CallArguments


class ToolParser(Protocol):
    def feed(self, text: str) -> list[Part]: ...

    def finish(self, *, cut: bool) -> list[Part]:
        """Return the rest, once no text follows. `cut`: the answer ended at its maximum length."""
        ...


class JsonEnd:
    """Finds the end of a JSON object or array that begins at the first character."""

    def __init__(self) -> None:
        self.depth = self.deepest = 0
        self._in_text = self._escaped = False

    def feed(self, text: str) -> int | None:
        """Return the number of characters of `text` up to the end, or None if it does not end there."""
        for place, char in enumerate(text):
            if self._in_text:
                self._in_text = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._in_text = True
            elif char in "{[":
                self.depth += 1
                self.deepest = max(self.deepest, self.depth)
            elif char in "}]":
                self.depth -= 1
                if self.depth <= 0:
                    return place + 1
        return None


class ForcedCallParser:
    """Reads an answer constrained by `schema_grammar.of_calls`, which is only calls. Streams their arguments."""

    def __init__(self, names: Collection[str]) -> None:
        self._openings = {CALL_OPENING.format(name=name): name for name in names}
        self._waiting = ""
        self._arguments: JsonEnd | None = None

    def feed(self, text: str) -> list[Part]:
        self._waiting += text
        return list(self._read())

    def finish(self, *, cut: bool) -> list[Part]:
        return []

    def _read(self) -> Iterator[Part]:
        while self._waiting:
            if self._arguments is None:
                name = self._begun()
                if name is None:
                    return
                self._arguments = JsonEnd()
                yield CallBegun(name)
                continue
            text, self._waiting = self._waiting, ""
            end = self._arguments.feed(text)
            if end is not None:
                self._arguments, self._waiting = None, text[end:]
            if text[:end]:
                yield CallArguments(text[:end])

    def _begun(self) -> str | None:
        """Return the function whose opening was read, with what ended the call before; None: it is not complete."""
        places = {opening: self._waiting.find(opening) for opening in self._openings}
        openings = [(place, opening) for opening, place in places.items() if place >= 0]
        if not openings:
            return None
        place, opening = min(openings)
        self._waiting = self._waiting[place + len(opening) :]
        return self._openings[opening]


# How a call may begin: an object's brace with one of the keys that a call has first, or Llama's other form.
_KEYS = tuple(f'"{key}"' for key in ("name", "type", "id", "function", "parameters", "arguments"))
_TAG = "<function="
_AROUND = ("</function>", "<tool_call>", "</tool_call>")
_TAGGED = re.compile(r"<function=(?P<name>[\w-]{1,64})>\s*(?=\{)")
_TAG_CHARS = 100
_SPACE = re.compile(r"(?:\s|<tool_call>)*")
_BETWEEN = re.compile(r"(?:[\s;,]|</function>|</?tool_call>)*")
_FORGOTTEN = 2
"""Maximum number of missing closing braces at an answer's end."""


@dataclass(frozen=True, slots=True)
class _ParsedCall:
    call: tuple[str, str] | None
    """Name and arguments; None if it is not a call."""
    end: int
    """Number of waiting characters that belong to it."""


class CallParser:
    """Finds calls of `names` at the beginnings of lines in an answer that may also contain text.

    Text that may be a call is held back until that is decided; a call is returned whole.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._waiting = ""
        self._may_begin = True
        """True if a call may begin at the waiting text: at the beginning of a line, and after another call."""
        self._called = False
        """True if the last part returned was a call."""
        self._json: JsonEnd | None = None
        self._begin = self._scanned = 0
        """Start of the JSON being scanned, and the number of waiting characters already scanned."""

    def feed(self, text: str) -> list[Part]:
        self._waiting += text
        return list(self._read(last=False))

    def finish(self, *, cut: bool) -> list[Part]:
        parts = list(self._read(last=not cut))
        rest, self._waiting = self._waiting, ""
        if self._called and _end_of(_BETWEEN, rest) == len(rest):
            return parts
        return [*parts, TextPart(rest)] if rest else parts

    def _read(self, *, last: bool) -> Iterator[Part]:
        while self._waiting:
            if not self._may_begin:
                yield self._tell_line()
                continue
            parsed = self._look(last=last)
            if parsed is None:
                return
            self._json = None
            if parsed.call is None:
                self._may_begin = False
                continue
            self._called, self._waiting = True, self._waiting[parsed.end :]
            name, arguments = parsed.call
            yield CallBegun(name)
            yield CallArguments(arguments)

    def _tell_line(self) -> TextPart:
        """Return what waits, up to the next line."""
        end = self._waiting.find("\n") + 1
        line = self._waiting[:end] if end else self._waiting
        self._called, self._may_begin, self._waiting = False, bool(end), self._waiting[len(line) :]
        return TextPart(line)

    def _look(self, *, last: bool) -> _ParsedCall | None:
        """Return what the waiting text begins with; None: more must come before that can be said."""
        if self._json is None:
            start = _end_of(_BETWEEN if self._called else _SPACE, self._waiting)
            begins = _begins(self._waiting[start:])
            if begins is not True:
                return begins if begins is None else _ParsedCall(None, 0)
            tag = _TAGGED.match(self._waiting, start)
            if tag is None and self._waiting[start] == "<":
                return _ParsedCall(None, 0) if len(self._waiting) - start > _TAG_CHARS else None
            self._json, self._begin = JsonEnd(), tag.end() if tag else start
            self._scanned = self._begin
        return self._look_through(self._json, last=last)

    def _look_through(self, json_end: JsonEnd, *, last: bool) -> _ParsedCall | None:
        end = json_end.feed(self._waiting[self._scanned :])
        if json_end.deepest > MAX_DEPTH:
            return _ParsedCall(None, 0)
        if end is not None:
            return self._found(self._scanned + end)
        self._scanned = len(self._waiting)
        if last and json_end.depth <= _FORGOTTEN:
            return self._found(self._scanned, missing="}" * json_end.depth)
        return None

    def _found(self, end: int, missing: str = "") -> _ParsedCall:
        tag = _TAGGED.search(self._waiting, 0, self._begin + 1)
        return _ParsedCall(self._call(self._waiting[self._begin : end] + missing, tag["name"] if tag else None), end)

    def _call(self, text: str, tagged: str | None) -> tuple[str, str] | None:
        try:
            value = json.loads(text, parse_constant=_no_number)
            name, arguments = (tagged, value) if tagged else _unwrapped(value)
            if isinstance(arguments, str):
                arguments = json.loads(arguments, parse_constant=_no_number)
        except (ValueError, RecursionError):
            return None
        if not isinstance(name, str) or name not in self._names or not isinstance(arguments, dict):
            return None
        return name, _text(arguments)


def _begins(text: str) -> bool | None:
    """Return True if `text` begins like a call, False if not, None if it is too short to decide."""
    if not text:
        return None
    if text[0] == "<":
        return None if any(tag.startswith(text) for tag in (_TAG, *_AROUND)) else text.startswith(_TAG)
    if text[0] != "{":
        return False
    key = text[1:].lstrip()
    return None if any(other_key.startswith(key) for other_key in _KEYS if key != other_key) else key.startswith(_KEYS)


def _unwrapped(value: dict[str, object]) -> tuple[object, object]:
    inner = value.get("function")
    if isinstance(inner, dict):
        value = inner
    name = value.get("name", inner)
    return name, value.get("parameters", value.get("arguments", {}))


def _text(arguments: dict[str, object]) -> str:
    text = json.dumps(arguments, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # Half of a surrogate pair, which JSON can write and UTF-8 cannot.
        return json.dumps(arguments)
    return text


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _end_of(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0
