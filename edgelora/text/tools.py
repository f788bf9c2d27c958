"""Functions that an answer may call, as values; and how a conversation with them reads where a template knows none.

Owns no template: those that know functions write them in their own way (`chat_template.py`).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

Change = Callable[[str], str]
Turn = dict[str, Any]
"""A message as chat templates take it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that an answer may call."""

    name: str
    parameters: str
    """JSON schema of its arguments, an object, as text."""
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
    """Arguments of the call, a JSON object as text."""
    complete: bool = True
    """False if `arguments` are no JSON object, as those of a call that was cut off."""

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
    """Return the conversation for a template without functions.

    The system message describes the functions, calls are text of the assistant, and results, in the order of the calls,
    are text of the user.
    """
    worded: list[Turn] = []
    results = False
    for turn in in_call_order(turns):
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


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message, and the results of the functions that it calls."""

    turn: Turn
    calls: Sequence[Mapping[str, Any]]
    results: list[list[Turn]]
    """For each call of the message, its results: one, unless a client sent several or none."""


def exchanges(turns: Sequence[Turn]) -> list[Exchange]:
    """Return the messages of a conversation in order, each with the results of its calls.

    A result belongs to the last message before it that makes a call with its id: clients number calls anew in every
    turn, so an id alone does not say which call is meant. A result with an id that no call has goes to the next
    unanswered call of the last message with calls; without such a message it is an exchange of its own.
    """
    conversation: list[Exchange] = []
    callers: dict[str, tuple[Exchange, deque[int]]] = {}
    """By call id, the last message that makes a call with it, and which of its calls have this id."""
    last: tuple[Exchange, deque[int]] | None = None
    for turn in turns:
        if turn["role"] == "tool" and last is not None:
            caller, places = callers.get(turn["tool_call_id"], last)
            while len(places) > 1 and caller.results[places[0]]:
                places.popleft()
            caller.results[places[0]].append(turn)
            continue
        calls = turn.get("tool_calls", ())
        exchange = Exchange(turn, calls, [[] for _ in calls])
        conversation.append(exchange)
        if calls:
            last = exchange, deque(range(len(calls)))
            callers |= _places(exchange)
    return conversation


def _places(exchange: Exchange) -> dict[str, tuple[Exchange, deque[int]]]:
    places: dict[str, tuple[Exchange, deque[int]]] = {}
    for index, call in enumerate(exchange.calls):
        places.setdefault(call["id"], (exchange, deque()))[1].append(index)
    return places


def in_call_order(turns: Sequence[Turn]) -> list[Turn]:
    """Return the conversation with the results behind the message that calls, in the order of its calls.

    Clients send results in the order in which their functions returned, and most templates, Llama's and Qwen's among
    them, write no ids: the model can tell results apart by their order alone.
    """
    return [turn for exchange in exchanges(turns) for turn in (exchange.turn, *chain.from_iterable(exchange.results))]


def one_call_each(turns: Sequence[Turn]) -> list[Turn]:
    """Return the conversation with every call in a message of its own and its result behind it.

    Llama 3.1's template refuses a message with two calls. The text of the message stays with its first call.
    """
    separate: list[Turn] = []
    for exchange in exchanges(turns):
        if not exchange.calls:
            separate.append(exchange.turn)
        for number, (call, results) in enumerate(zip(exchange.calls, exchange.results, strict=True)):
            content = "" if number else exchange.turn["content"]
            separate += [{**exchange.turn, "content": content, "tool_calls": [call]}, *results]
    return separate


def mapped(value: Any, change: Change) -> Any:
    """Return a JSON value with `change` applied to every text in it, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): mapped(inner, change) for key, inner in value.items()}
    return [mapped(inner, change) for inner in value] if isinstance(value, list) else value


def texts(value: object) -> Iterator[str]:
    """Yield every text in a JSON value, keys included."""
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
