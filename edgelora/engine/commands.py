"""The commands to the engine thread, from the engine's own methods and from the loader. Values only."""

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
    """Result of looking up the prompt's prefix on disk."""


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class Close:
    deadline: float | None
    """Time at which live requests fail, in seconds of time.monotonic; None for never."""

    def sooner(self, other: Close | None) -> Close:
        """Return a command with the earlier of the two deadlines."""
        given = [close.deadline for close in (self, other) if close is not None and close.deadline is not None]
        return Close(min(given, default=None))


@dataclass(frozen=True, slots=True)
class Preload:
    """Load an adapter that no request waits for."""

    ref: AdapterRef
    pin: bool
    """True if the adapter must wait for room and then stay resident; False if this is only a hint."""
    instead_of: AdapterRef | None = None
    """Adapter to unpin with this command."""
    done: Future[bool] = field(default_factory=Future)
    """True if the adapter is resident, False if a hint failed; a failed pin sets the error instead."""


Command = Submit | Cancel | Close | Preload | LoadResult | PrefixRead
