"""A generation that was understood and is running."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from edgelora.core.request import AdapterUse
from edgelora.engine.stream import Stream
from edgelora.runtime.interface import Runtime
from edgelora.server.generation.choice_writer import ChoiceWriter
from edgelora.server.generation.request_body import GenerationFields


@dataclass(frozen=True, slots=True)
class StartedGeneration:
    body: GenerationFields
    adapters: tuple[AdapterUse, ...]
    streams: tuple[Stream, ...]
    """The engine's stream of each choice."""
    make_writer: Callable[[int], ChoiceWriter]
    """Makes the writer of one choice, given its index."""
    prompts: int = 1
    """How many prompts the choices answer, as many choices each, in order."""


Start = Callable[[Runtime, dict[str, object]], StartedGeneration]
"""Parses a body, resolves its model and submits it to the engine. Blocking. Raises EdgeloraError."""

PartT = TypeVar("PartT")


def begin_all(parts: Iterable[PartT], submit: Callable[[PartT], Stream]) -> tuple[Stream, ...]:
    """Submit all choices of an answer, or none of them. Those of one prompt share its prefill. Raises what `submit`
    does."""
    streams: list[Stream] = []
    try:
        for part in parts:
            streams.append(submit(part))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    return tuple(streams)
