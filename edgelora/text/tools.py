"""Functions that an answer may call, as values; and how a conversation with them reads where a template knows none.

Owns no template: those that know functions write them in their own way (`chat_template.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Change = Callable[[str], str]
Turn = dict[str, Any]
"""A message as chat templates take it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function."""

    name: str
    parameters: str
    """The JSON schema of its arguments, as text; an object's."""
    description: str = ""

    def spec(self, change: Change) -> dict[str, Any]:
        """Return it as chat templates take it, with every text changed."""
        parameters = mapped(json.loads(self.parameters), change)
        about = {"name": change(self.name), "description": change(self.description), "parameters": parameters}
        return {"type": "function", "function": about}


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: str
    """A JSON object, as text."""
    complete: bool = True
    """False if `arguments` are no JSON object, as those of a call that was cut short."""

    def spec(self, change: Change) -> dict[str, Any]:
        """Return it as chat templates take it: arguments as an object, or as the text they are; every text changed."""
        arguments = mapped(json.loads(self.arguments), change) if self.complete else change(self.arguments)
        function = {"name": change(self.name), "arguments": arguments}
        return {"type": "function", "id": change(self.id), "function": function}


_HOW = (
    "You can call these functions:\n\n{specs}\n\n"
    'To call one, answer with nothing but JSON of this form: {{"name": <the function\'s name>, "parameters": <its '
    'arguments, by name>}}. Put "; " between two calls. Where no function helps, answer in words.'
)


def in_words(turns: Sequence[Turn], specs: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """The same conversation for a template that knows of no functions: they are told of in the system message, calls
    are the assistant's words, and results the user's.
    """
    worded: list[Turn] = []
    results = False
    for turn in turns:
        now = _worded(turn)
        if results and now["role"] == "user":  # Templates may insist on user and assistant taking turns.
            worded[-1]["content"] += f"\n\n{now['content']}"
        else:
            worded.append(now)
        results = turn["role"] == "tool"
    if not specs:
        return worded
    how = _HOW.format(specs="\n\n".join(_json(spec) for spec in specs))
    if worded[0]["role"] == "system":
        return [{"role": "system", "content": f"{worded[0]['content']}\n\n{how}"}, *worded[1:]]
    return [{"role": "system", "content": how}, *worded]


def one_call_each(turns: Sequence[Turn]) -> list[Turn]:
    """The same conversation with every call in a message of its own, and its result behind it: Llama 3.1's template
    takes no two calls at once.
    """
    results = {turn["tool_call_id"]: turn for turn in turns if turn["role"] == "tool"}
    given: list[Turn] = []
    for turn in turns:
        calls = turn.get("tool_calls", ())
        if len(calls) < 2:
            given += [] if any(turn is earlier for earlier in given) else [turn]
            continue
        for call in calls:
            given.append({**turn, "tool_calls": [call]})
            given += [results[call["id"]]] if call["id"] in results else []
    return given


def mapped(value: Any, change: Change) -> Any:
    """Return a JSON value with every text in it, keys included, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): mapped(inner, change) for key, inner in value.items()}
    return [mapped(inner, change) for inner in value] if isinstance(value, list) else value


def texts(value: object) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def _worded(turn: Turn) -> Turn:
    if turn["role"] == "tool":
        return {"role": "user", "content": f"The function's result: {turn['content']}"}
    calls = [call["function"] for call in turn.get("tool_calls", ())]
    worded = "; ".join(_json({"name": call["name"], "parameters": call["arguments"]}) for call in calls)
    return {"role": turn["role"], "content": "\n".join(filter(None, (turn["content"], worded)))}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
