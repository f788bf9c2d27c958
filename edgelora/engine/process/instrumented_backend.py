"""A backend that reports the call it is in, how long calls take, and which adapters are used for the first time.

It stands between the engine and the real backend, in the engine's process. After a crash, its reports show which
adapter was being read, attached, or computed with for the first time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Backend, Capabilities, Chunk, Loaded
from edgelora.core.kv import SavedKv
from edgelora.core.tokenizer import Tokenizer
from edgelora.engine.process.messages import Phase, Pong

Tell = Callable[[Phase, tuple[Path, ...]], None]
"""Sends a report before it returns, because the process may crash next."""

UNMEASURED_SECONDS = 600.0
"""Maximum seconds of a call during the first MEASURED calls: the first steps may read the base from a cold disk."""
MEASURED = 16
LEAST_SECONDS = 60.0
"""Seconds below which no call counts as hanging: another process may occupy all processors for as long."""
PATIENCE = 20.0
"""Multiple of the longest call so far after which a call counts as hanging."""


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """The result of `load`, with the path it came from."""

    path: Path
    inner: Loaded

    @property
    def nbytes(self) -> int:
        return self.inner.nbytes


class InstrumentedBackend:
    """Implements `edgelora.backends.base.Backend`."""

    def __init__(self, backend: Backend, tell: Tell) -> None:
        self._backend = backend
        self._tell = tell
        self._fresh: dict[int, Path] = {}
        """Paths of adapters that are attached but have been in no step yet, by slot."""
        self._calls = 0
        self._inside = 0
        self._longest = 0.0
        self._lock = threading.Lock()

    def pong(self) -> Pong:
        """Answer a ping. May be called from any thread."""
        with self._lock:
            bound = UNMEASURED_SECONDS if self._calls < MEASURED else max(LEAST_SECONDS, PATIENCE * self._longest)
            return Pong(self._calls, bound if self._inside else None)

    @property
    def name(self) -> str:
        return self._backend.name

    @property
    def capabilities(self) -> Capabilities:
        return self._backend.capabilities

    @property
    def tokenizer(self) -> Tokenizer:
        return self._backend.tokenizer

    @property
    def kv_identity(self) -> str:
        return self._backend.kv_identity

    def load(self, path: Path) -> NamedAdapter:
        """Load an adapter.

        Not timed: it waits for a disk, on a thread that only the adapter's own requests wait for.
        """
        with self._trying("load", (path,)):
            return NamedAdapter(path, self._backend.load(path))

    def attach(self, slot: int, loaded: Loaded) -> None:
        if not isinstance(loaded, NamedAdapter):
            raise TypeError(f"{type(loaded).__name__} is not of this backend")
        with self._trying("attach", (loaded.path,)), self._call():
            self._backend.attach(slot, loaded.inner)
        self._fresh[slot] = loaded.path

    def detach(self, slot: int) -> None:
        self._fresh.pop(slot, None)
        with self._call():
            self._backend.detach(slot)

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        first = {a.slot for chunk in chunks for a in chunk.adapters if a.slot in self._fresh} if self._fresh else ()
        if not first:
            with self._call():
                return self._backend.step(chunks)
        with self._trying("step", tuple(self._fresh.pop(slot) for slot in sorted(first))), self._call():
            return self._backend.step(chunks)

    def clear(self, sequence: int) -> None:
        with self._call():
            self._backend.clear(sequence)

    def truncate(self, sequence: int, length: int) -> None:
        with self._call():
            self._backend.truncate(sequence, length)

    def copy(self, source: int, target: int, length: int) -> None:
        with self._call():
            self._backend.copy(source, target, length)

    def save(self, sequence: int, length: int) -> SavedKv:
        with self._call():
            return self._backend.save(sequence, length)

    def restore(self, sequence: int, saved: SavedKv) -> None:
        with self._call():
            self._backend.restore(sequence, saved)

    def allocated_bytes(self) -> tuple[int, int]:
        return self._backend.allocated_bytes()

    def close(self) -> None:
        self._backend.close()

    @contextmanager
    def _trying(self, phase: Phase, paths: tuple[Path, ...]) -> Iterator[None]:
        self._tell(phase, paths)
        try:
            yield
        finally:  # An error of the tree is an answer, too: only what ends the process is not.
            self._tell(phase, ())

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._lock:
            self._calls += 1
            self._inside += 1
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            with self._lock:
                self._inside -= 1
                self._longest = max(self._longest, took)
