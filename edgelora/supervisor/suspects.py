"""Which adapter an engine's process died of. Pure.

The process says what it is about to do with an adapter for the first time, and that it went well. Dying in between is a
strike; doing well after all ends the suspicion. A kill -9 is nobody's fault, and the kernel's for want of memory cannot
be told from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgelora.supervisor.messages import Phase

STRIKES = 2


class Suspects:
    """Adapters by the path of their conversion."""

    def __init__(self) -> None:
        self._trying: dict[Phase, tuple[Path, ...]] = {}
        self._strikes: Counter[Path] = Counter()

    def trying(self, phase: Phase, paths: Sequence[Path]) -> None:
        """As `messages.Trying`."""
        before = self._trying.pop(phase, ())
        if paths:
            self._trying[phase] = tuple(paths)
        elif phase == "step":
            for path in before:
                del self._strikes[path]

    def ended(self, *, blamed: bool) -> tuple[Path, ...]:
        """The process ended; `blamed`: of itself. Returns, and forgets, those that have now done it STRIKES times."""
        now = {path for paths in self._trying.values() for path in paths} if blamed else set()
        self._trying.clear()
        self._strikes.update(now)
        guilty = tuple(sorted(path for path in now if self._strikes[path] >= STRIKES))
        for path in guilty:
            del self._strikes[path]
        return guilty
