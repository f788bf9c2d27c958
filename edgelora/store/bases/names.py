"""The names of a base: its own, its aliases, and those in the catalogue. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from edgelora_models.catalogue import ENTRIES

RESERVED = frozenset({"auto"})
"""Names that mean a choice of model rather than a model."""


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


def means_base(name: str, bases: Iterable[NamedBase]) -> bool:
    """Return whether requests for `name` go to a base, or will: so no adapter may have this name.

    That holds for the names of installed bases, for every name in the catalogue, and for RESERVED.
    """
    lowered = name.lower()
    if lowered in RESERVED or any(lowered in _folded((entry.name, *entry.aliases)) for entry in ENTRIES):
        return True
    return any(lowered in _folded((base.name, *base.aliases)) for base in bases)


def _folded(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}
