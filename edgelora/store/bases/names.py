"""The names of a base: its own, its aliases, and those in the catalogue. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from edgelora_models.catalogue import ENTRIES


class NamedBase(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...


def goes_by(base: NamedBase, name: str) -> bool:
    """Return whether `name` means `base`: as one of its own names, exactly, or as one of the catalogue's, in any case.

    A base that was pulled before the catalogue knew a name is called by it all the same.
    """
    own = {base.name, *base.aliases}
    if name in own:
        return True
    lowered, folded = name.lower(), _folded(own)
    catalogued = (_folded((entry.name, *entry.aliases)) for entry in ENTRIES)
    return any(lowered in names and names & folded for names in catalogued)


def _folded(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}
