"""Saved KV without a backend, and who it would have come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgelora.core.kv import SavedKv
from edgelora.store.prefixes.origin import ActiveAdapter, Computer, Origin
from edgelora.store.prefixes.store import PrefixStore

HERE = Computer(kv="llama.cpp 1; f16", base="a" * 64, template="b" * 64)
BASE_ALONE = HERE.origin(frozenset(), 1)


def acting(version: str = "v1", *, path: str = "/a.gguf", weight: float = 1.0, start: int = 0) -> ActiveAdapter:
    return ActiveAdapter(version, path, weight, start)


def with_adapters(*adapters: ActiveAdapter) -> Origin:
    return Origin(HERE.kv, HERE.base, HERE.template, adapters)


def tokens(length: int, *, first: int = 0) -> tuple[int, ...]:
    return tuple(range(first, first + length))


def saved(length: int, *, nbytes: int = 1000, identity: str = HERE.kv) -> SavedKv:
    """Bytes that tell one length from another."""
    data = hashlib.sha256(f"kv of {length}".encode()).digest() * (nbytes // 32 + 1)
    return SavedKv(identity, length, memoryview(data[:nbytes]))


def store_at(root: Path, *, budget: int = 1 << 20) -> PrefixStore:
    """With a clock that goes on by a second at each look, so that the last use is always the latest."""
    ticks = iter(range(1_750_000_000, 1_760_000_000))
    return PrefixStore(root, budget_bytes=budget, clock=lambda: float(next(ticks)))
