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
    """Unix seconds."""
    parent: str | None
    """The base's name; None for the base itself."""
    root: str
    """The version an id stands for (`name@digest`), or the base's name. Never a path."""
    resident: bool
    """Whether it is in memory."""
    pinned: bool = False
    """Whether it stays in memory while nobody uses it."""


def model_card(model_id: str, created: int, base: str, root: str, entry: PoolEntry | None) -> ModelCard:
    """Return an adapter's card. `entry`: what the pool knows of it; None where it is not in memory."""
    return ModelCard(model_id, created, base, root, entry is not None, entry is not None and entry.pinned)
