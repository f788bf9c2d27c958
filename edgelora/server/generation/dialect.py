"""The dialects of the OpenAI API: how a family of clients starts generations, reads answers, and lists models.

Each API folder that speaks one brings a `Dialect`; the application registers them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers

from edgelora.server.generation.choice_writer import Fields
from edgelora.server.generation.sse import ReplyShape
from edgelora.server.generation.started import Start


@dataclass(frozen=True, slots=True)
class GenerationFormat:
    """A kind of generation in a dialect: its start, which brings the writers of its choices, and its reply's shape."""

    start: Start
    shape: ReplyShape


@dataclass(frozen=True, slots=True)
class Dialect:
    chat: GenerationFormat
    completion: GenerationFormat
    list_models: Callable[[list[Fields]], object]
    """Makes the reply of GET /v1/models from the entries of the models."""
    is_spoken: Callable[[Headers], bool] = lambda _headers: True
    """Returns True if a request with these headers comes from a client of this dialect."""


class Dialects:
    """The dialects that a server speaks."""

    def __init__(self, default: Dialect, *others: Dialect) -> None:
        """`default`: for requests that are in none of the others."""
        self._default = default
        self._others = others

    def of(self, headers: Headers) -> Dialect:
        """Return the dialect of a request: the first whose client sent it."""
        return next((dialect for dialect in self._others if dialect.is_spoken(headers)), self._default)
