"""A generation that was understood and is running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgelora.core.request import AdapterUse
from edgelora.core.sampling_params import SamplingParams
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
    make_writer: Callable[[], ChoiceWriter]
    """Makes the writer of one choice."""


Start = Callable[[Runtime, dict[str, object]], StartedGeneration]
"""Parses a body, resolves its model and submits it to the engine. Blocking. Raises EdgeloraError."""

Submit = Callable[[SamplingParams], Stream]


def begin_all(samplings: Sequence[SamplingParams], submit: Submit) -> tuple[Stream, ...]:
    """Submit all choices of an answer, or none of them. They share the prompt's prefill. Raises what `submit` does."""
    streams: list[Stream] = []
    try:
        for sampling in samplings:
            streams.append(submit(sampling))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    return tuple(streams)
