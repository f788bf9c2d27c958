"""Pure values that cross the runtime's seams. No I/O, no clock, no threads."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from edgelora.core.errors import UsageError
from edgelora.core.sampling_params import SamplingParams

AdapterFormat = Literal["mapped", "gguf", "mlx"]


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An installed adapter version, converted for the resident base: all the engine needs to load it."""

    name: str
    version: str
    """sha256 hex of the source files: what makes a version that version."""
    path: Path
    """The converted file (GGUF) or folder (MLX), immutable."""
    nbytes: int
    """Bytes it will take in memory; reserved in the pool before it is loaded."""
    invocation: tuple[int, ...] = ()
    """aLoRA: the token ids it acts from on, see `activation`. Empty: it acts on every token."""

    @property
    def key(self) -> tuple[str, str]:
        return (self.version, str(self.path))

    def __str__(self) -> str:
        return f"{self.name}@{self.version[:12]}"


MAX_WEIGHT = 4.0
"""Largest weight of an adapter in a request, of either sign: far beyond what a trained adapter is good for."""
MAX_ADAPTERS = 8
"""In one request."""


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """An adapter's part in a request."""

    ref: AdapterRef
    weight: float = 1.0
    """Its delta is multiplied by this: finite, at most MAX_WEIGHT either way; 0 is as if it were not there."""
    start: int = 0
    """First position of prompt and answer it acts on: an aLoRA's invocation."""

    @property
    def key(self) -> tuple[tuple[str, str], float, int]:
        return (self.ref.key, self.weight, self.start)


@dataclass(frozen=True, slots=True)
class Request:
    """A generation request, frozen before it reaches the engine thread.

    Raises UsageError for too many adapters, for one given twice, or for a weight or start that cannot be.
    """

    id: str
    prompt: tuple[int, ...]
    """Token ids, template and BOS included; never empty."""
    adapters: tuple[AdapterUse, ...]
    """Given in any order, kept in one, those of weight 0 left out; empty is the base alone."""
    sampling: SamplingParams
    client: str = ""
    """The client that sent it: clients take turns. Requests without one count as one client's."""
    system: int = 0
    """Number of leading prompt tokens that belong to the system prompt, up to the beginning of the user's message."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapters", _composed(self.adapters))


def _composed(uses: tuple[AdapterUse, ...]) -> tuple[AdapterUse, ...]:
    if len(uses) > MAX_ADAPTERS:
        message = f"{len(uses)} adapters are given; a request may have {MAX_ADAPTERS}."
        raise UsageError("too_many_adapters", message, "Name fewer.", param="adapters")
    for number, use in enumerate(uses):
        if not isfinite(use.weight) or abs(use.weight) > MAX_WEIGHT or use.start < 0:
            raise UsageError(
                "bad_weight",
                f"Adapter {use.ref} cannot act with weight {use.weight} from position {use.start} on.",
                f"Give it a weight from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}.",
                param="adapters",
            )
        if any(use.ref.key == other.ref.key for other in uses[:number]):
            raise UsageError(
                "adapter_twice",
                f"Adapter {use.ref} is given twice.",
                "Give it once, with the sum of its weights.",
                param="adapters",
            )
    return tuple(sorted((use for use in uses if use.weight), key=lambda use: use.ref.key))
