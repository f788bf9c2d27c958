"""The pinned adapters, by name: a pin follows its name to a new version. Thread-safe."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from edgelora.core.errors import BackendError
from edgelora.core.request import AdapterRef

_log = logging.getLogger(__name__)


class Preloader(Protocol):
    """The part of the engine that loads pins, see `edgelora.engine.engine.Engine`."""

    def fetch(self, ref: AdapterRef, *, pin: bool = False, instead_of: AdapterRef | None = None) -> Future[bool]: ...


class Pins:
    def __init__(self, engine: Preloader) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._pinned: dict[str, AdapterRef] = {}

    def add(self, name: str, ref: AdapterRef) -> None:
        """Pin the current version of `name`. Returns once it is resident; raises the error that prevents it."""
        self._engine.fetch(ref, pin=True).result()
        with self._lock:
            self._pinned[name] = ref

    def remove(self, name: str) -> bool:
        """Unpin the adapter of `name`, unless another name pins it too. Return False if `name` pinned nothing."""
        with self._lock:
            ref = self._pinned.pop(name, None)
            others = {other.key for other in self._pinned.values()}
        if ref is None:
            return False
        if ref.key not in others:
            with suppress(BackendError):  # The engine was stopped: it holds nothing any more.
                self._engine.fetch(ref, instead_of=ref).result()
        return True

    def drop(self, adapter: str, versions: Collection[str]) -> None:
        """Unpin the given versions (sha256 hex) of an adapter, which were uninstalled."""
        with self._lock:
            mine = [(spec, ref) for spec, ref in self._pinned.items() if spec.partition("@")[0] == adapter]
        for spec, ref in mine:
            if ref.version in versions:
                self.remove(spec)

    def follow(self, name: str, ref: AdapterRef) -> None:
        """Move the pin of `name`, if there is one, to `ref`, the version that `name` now stands for.

        Does not wait. If the new version finds no room beside running requests, the old one stays pinned, and the next
        request tries again.
        """
        with self._lock:
            old = self._pinned.get(name)
            if old is None or old.key == ref.key:
                return
            self._pinned[name] = ref
        try:
            moved = self._engine.fetch(ref, pin=True, instead_of=old)
        except BackendError:
            return  # The engine was stopped.
        moved.add_done_callback(lambda done: self._moved(name, old, ref, done))

    def _moved(self, name: str, old: AdapterRef, ref: AdapterRef, done: Future[bool]) -> None:
        if (error := done.exception()) is None:
            return
        _log.warning("The pin of %s stays with its old version for now: %s", name, error)
        with self._lock:
            if self._pinned.get(name) == ref:
                self._pinned[name] = old
