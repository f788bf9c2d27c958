"""What the engine's thread is told, by its own methods and by the loader. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.adapters.loader import LoadResult
from edgelora.prefixes.cache import Look
from edgelora.prefixes.traffic import PrefixRead
from edgelora.run import Run


@dataclass(frozen=True, slots=True)
class Submit:
    run: Run
    look: Look
    """What is on disk of its prompt."""


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class Close:
    deadline: float | None
    """When to fail what still runs, in time.monotonic; None: never."""

    def sooner(self, other: Close | None) -> Close:
        """Of two wishes to close, the more urgent one."""
        given = [close.deadline for close in (self, other) if close is not None and close.deadline is not None]
        return Close(min(given, default=None))


Command = Submit | Cancel | Close | LoadResult | PrefixRead
