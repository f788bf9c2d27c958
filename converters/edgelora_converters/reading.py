"""What a reader may use beside an adapter's own files, and what it may do: a value, and opening what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgelora_converters.base_weights import BaseWeights, open_base_weights


@dataclass(frozen=True, slots=True)
class Reading:
    """The default uses nothing and approximates nothing."""

    weights: BaseWeights | None = None
    """The base's weights, open. Whether they are as trained (`exact`) is for each use to ask."""
    initial: Path | None = None
    """The folder of the adapter as it was initialised, before the first step of training."""
    allow_approximate: bool = False
    """Whether what cannot be exact may be approximated, its error reported."""


PLAIN = Reading()
"""The adapter's own files, exactly."""


@contextmanager
def open_reading(
    *, weights: Path | None = None, initial: Path | None = None, allow_approximate: bool = False
) -> Iterator[Reading]:
    """A Reading with the base's weights at `weights` open for the block; see open_base_weights for what it raises."""
    if weights is None:
        yield Reading(initial=initial, allow_approximate=allow_approximate)
        return
    with open_base_weights(weights) as opened:
        yield Reading(weights=opened, initial=initial, allow_approximate=allow_approximate)
