"""What was done to an adapter's factors before they were plain ones, told to people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgelora.cli.output import note

if TYPE_CHECKING:
    from edgelora_converters.combine import Part


def tell_treatments(parts: Iterable[Part]) -> None:
    """A line on stderr for each part whose reading says something of it."""
    for part in parts:
        if told := part.adapter.metadata.get("treatment"):
            note(f"{part.name}: {told}")
