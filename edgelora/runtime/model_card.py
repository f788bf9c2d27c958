"""One entry of a model list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgelora.engine.adapters.pool import PoolEntry


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The base, or an adapter of it, as a client sees it."""

    id: str
    created: int
    """Creation time in Unix seconds."""
    parent: str | None
    """The base's name; None for the base itself."""
    root: str
    """Version that the id stands for (`name@digest`), or the base's name. Never a path."""
    resident: bool
    """True if it is in memory, and not merely being loaded."""
    pinned: bool = False
    """True if it stays in memory while no request uses it."""


def model_card(model_id: str, created: int, base: str, root: str, entry: PoolEntry | None) -> ModelCard:
    """Return an adapter's card. `entry`: its pool entry; None if it is neither in memory nor being loaded."""
    if entry is None:
        return ModelCard(model_id, created, base, root, resident=False)
    return ModelCard(model_id, created, base, root, entry.resident, entry.pinned)
