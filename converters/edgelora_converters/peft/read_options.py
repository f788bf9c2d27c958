"""Options of a reader: what it may use beside an adapter's own files. A value; owns no file and reads none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgelora_converters.weights.base import BaseWeights


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The default uses nothing and approximates nothing."""

    weights: BaseWeights | None = None
    """The base's weights, open. Whether they are as trained (`exact`) is for each use to ask."""
    initial: Path | None = None
    """The folder of the adapter as it was initialised, before the first step of training."""
    allow_approximate: bool = False
    """True if what cannot be exact may be approximated, with its error reported."""
    progress: Callable[[int, int], None] | None = None
    """Called with modules done and in all where the base's weights are decomposed: minutes for each layer of an 8B."""


PLAIN = ReadOptions()
"""The adapter's own files, exactly."""
