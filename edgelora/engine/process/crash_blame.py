"""The attribution of an engine crash to adapters, and what follows: quarantine, and a line in the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgelora.core.errors import StorageError
from edgelora.core.request import AdapterRef
from edgelora.engine.process.messages import Phase
from edgelora.store.adapters.quarantine import Quarantine

STRIKES = 2


class CrashSuspects:
    """Adapters suspected of crashes, by the path of their conversion."""

    def __init__(self) -> None:
        self._trying: dict[Phase, tuple[Path, ...]] = {}
        self._strikes: Counter[Path] = Counter()

    def trying(self, phase: Phase, paths: Sequence[Path]) -> None:
        """Record a `messages.FirstUse`."""
        before = self._trying.pop(phase, ())
        if paths:
            self._trying[phase] = tuple(paths)
        elif phase == "step":
            for path in before:
                del self._strikes[path]

    def ended(self, *, blamed: bool) -> tuple[Path, ...]:
        """Record the end of the process. `blamed`: the process caused it itself.

        Returns, and forgets, the adapters that have now been in use at STRIKES such ends.
        """
        now = {path for paths in self._trying.values() for path in paths} if blamed else set()
        self._trying.clear()
        self._strikes.update(now)
        guilty = tuple(sorted(path for path in now if self._strikes[path] >= STRIKES))
        for path in guilty:
            del self._strikes[path]
        return guilty


_log = logging.getLogger(__name__)


class CrashBlame:
    """Suspects and quarantine. The caller holds a lock, except for `trying`, which one thread calls per process."""

    def __init__(self, quarantine: Quarantine | None) -> None:
        self._quarantine = quarantine
        self._suspects = CrashSuspects()
        self._known: dict[Path, AdapterRef] = {}
        """Every adapter ever requested, by the path of its conversion."""

    def know(self, refs: Iterable[AdapterRef]) -> None:
        self._known.update((ref.path, ref) for ref in refs)

    def trying(self, phase: Phase, paths: Sequence[Path]) -> None:
        """Record a `messages.FirstUse`."""
        self._suspects.trying(phase, paths)

    def ended(self, why: str, *, blamed: bool) -> list[AdapterRef]:
        """Do as `CrashSuspects.ended`, and quarantine the adapters returned."""
        guilty = [self._known[path] for path in self._suspects.ended(blamed=blamed) if path in self._known]
        for ref in guilty:
            _log.error("Adapter %s crashed the engine twice and is not run any more: %s.", ref, why)
            self._lock_up(ref, why)
        return guilty

    def _lock_up(self, ref: AdapterRef, why: str) -> None:
        if self._quarantine is None:
            return
        try:
            self._quarantine.add(ref, why)
        except StorageError as error:  # It may crash the engine two times more.
            _log.error("The quarantine cannot be kept: %s", error)
