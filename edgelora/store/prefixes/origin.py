"""The origin of saved KV as one digest: prefixes share a group only if everything but their tokens is equal.

Pure values; touches no disk.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Annotated

import msgspec
import numpy as np

from edgelora.core.kv import Key

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class ActiveAdapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter that acts on the prefix."""

    version: str
    """sha256 hex of its source."""
    path: str
    """Path of the conversion: for another base, or by another converter, it is another file."""
    weight: float
    start: int
    """First position it acts on."""


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a prefix's KV depends on besides its tokens."""

    kv: str
    """`Backend.kv_identity`."""
    base: Digest
    """sha256 hex of the base's file."""
    template: Digest
    """sha256 hex of the base's chat template."""
    adapters: tuple[ActiveAdapter, ...]
    """In one order; empty is the base alone."""

    @property
    def key(self) -> Key:
        """The key that running sequences use for it."""
        return frozenset(((adapter.version, adapter.path), adapter.weight, adapter.start) for adapter in self.adapters)

    @property
    def group(self) -> str:
        """sha256 hex of all of it: the name of the folder."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Computer(msgspec.Struct, frozen=True):
    """The base and KV settings of a process: an origin without its adapters."""

    kv: str
    base: str
    template: str

    def origin(self, key: Key, length: int) -> Origin:
        """Return the origin of the first `length` tokens of a sequence with this key; an adapter that begins later is
        left out."""
        acting = [ActiveAdapter(*ref, weight, start) for ref, weight, start in key if start < length]
        ordered = sorted(acting, key=lambda one: (one.version, one.path))
        return Origin(self.kv, self.base, self.template, tuple(ordered))


def reaches(key: Key, length: int) -> list[tuple[int, int]]:
    """Ranges (from, to) of prefix lengths, both included and up to `length`, each of one origin; longest first."""
    edges = sorted({0, length} | {start for _, _, start in key if start < length})
    return [(low + 1, high) for low, high in pairwise(edges)][::-1]


def token_bytes(tokens: list[int] | tuple[int, ...]) -> bytes:
    """Encode tokens as 4 bytes each, little-endian, the form in which prefixes are compared."""
    return np.asarray(tokens, "<u4").tobytes()
