"""The engine thread's commands, from its own methods and from the loader. Values only."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from edgelora.core.request import AdapterRef
from edgelora.engine.adapters.loader import LoadResult
from edgelora.engine.prefix_cache.cache import PrefixLookup
from edgelora.engine.prefix_cache.transfer import PrefixRead
from edgelora.engine.request_state import RequestState


@dataclass(frozen=True, slots=True)
class Submit:
    run: RequestState
    look: PrefixLookup
    """The prefix of its prompt that is on disk."""


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class Close:
    deadline: float | None
    """When to fail what still runs, in time.monotonic; None: never."""

    def sooner(self, other: Close | None) -> Close:
        """Return the more urgent of two commands to close."""
        given = [close.deadline for close in (self, other) if close is not None and close.deadline is not None]
        return Close(min(given, default=None))


@dataclass(frozen=True, slots=True)
class Preload:
    """Load an adapter that no request waits for."""

    ref: AdapterRef
    pin: bool
    """Whether it is to stay, and to wait for its room; otherwise it is a hint."""
    instead_of: AdapterRef | None = None
    """A pin that ends with this."""
    done: Future[bool] = field(default_factory=Future)
    """Whether it is in memory; for a pin the error instead of False."""


Command = Submit | Cancel | Close | Preload | LoadResult | PrefixRead
