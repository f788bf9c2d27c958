"""In the prefix cache's place: what is kept is in memory at once, and unreadable when the test says so."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgelora.core.errors import EdgeloraError, StorageError
from edgelora.core.kv import Key, SavedKv
from edgelora.core.request import Request
from edgelora.engine.prefix_cache.cache import PrefixWrite


@dataclass(frozen=True, slots=True)
class Stored:
    length: int


@dataclass(frozen=True, slots=True)
class Origin:
    key: Key


@dataclass(frozen=True, slots=True)
class Found:
    stored: Stored
    origin: Origin
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Look:
    found: Found | None
    keep: PrefixWrite | None


@dataclass
class KeptPrefixes:
    held: dict[tuple[Key, tuple[int, ...]], SavedKv] = field(default_factory=dict)
    damaged: bool = False
    """Whether nothing can be read."""
    reads: int = 0

    def look(self, request: Request) -> Look:
        """The longest prefix that the same adapters acted on; the request's system prompt is to be kept."""
        key = frozenset(use.key for use in request.adapters)
        fits = [
            (kept, tokens)
            for kept, tokens in self.held
            if request.prompt[: len(tokens)] == tokens and kept == acting(key, len(tokens))
        ]
        kept, tokens = max(fits, key=lambda one: len(one[1]), default=(frozenset(), ()))
        system = request.prompt[: request.system]
        keep = PrefixWrite(acting(key, len(system)), system) if system else None
        return Look(Found(Stored(len(tokens)), Origin(kept), tokens) if tokens else None, keep)

    def read(self, found: Found) -> SavedKv | EdgeloraError:
        self.reads += 1
        if self.damaged:
            return StorageError("prefix_unreadable", "It was damaged by the test.")
        return self.held[found.origin.key, found.tokens]

    def wants(self, _keep: PrefixWrite) -> bool:
        return True

    def offer(self, keep: PrefixWrite, saved: SavedKv) -> None:
        # Its own copy: what the backend gave must not change with the KV.
        self.held[keep.key, keep.tokens] = SavedKv(saved.identity, saved.length, memoryview(bytes(saved.data)))

    def close(self, _timeout: float) -> None: ...


def acting(key: Key, length: int) -> Key:
    """Of the adapters those that act before so many tokens are over."""
    return frozenset(use for use in key if use[2] < length)
