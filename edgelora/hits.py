"""How often each adapter version was asked for, and when last. In memory, since the process began."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hit:
    count: int
    last: float
    """Unix seconds."""


class Hits:
    """Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._hits: dict[str, Hit] = {}

    def note(self, versions: Iterable[str]) -> None:
        """A request with these versions (sha256 hex) was taken."""
        now = self._clock()
        with self._lock:
            for version in versions:
                known = self._hits.get(version)
                self._hits[version] = Hit(1 if known is None else known.count + 1, now)

    def of(self, version: str) -> Hit | None:
        """None where nobody asked for it."""
        return self._hits.get(version)

    def forget(self, versions: Iterable[str]) -> None:
        with self._lock:
            for version in versions:
                self._hits.pop(version, None)
