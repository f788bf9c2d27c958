"""Statistics of an engine over all its processes: counts go on where the last one died. Values are replaced whole."""

from __future__ import annotations

from dataclasses import replace

from edgelora.stats import EngineStats


class Tally:
    def __init__(self) -> None:
        self.now = EngineStats(0, 0, (), 0, 0)
        self._before = self.now
        """Of the processes that are dead."""

    def take(self, stats: EngineStats, *, same_adapters: bool) -> None:
        """As `messages.Stats`."""
        before = self._before
        self.now = replace(
            stats,
            adapters=self.now.adapters if same_adapters else stats.adapters,
            steps=before.steps + stats.steps,
            tokens=before.tokens + stats.tokens,
            drafted=before.drafted + stats.drafted,
            accepted=before.accepted + stats.accepted,
        )

    def ended(self) -> None:
        """The process is dead: nothing runs and nothing is in memory."""
        self.now = self._before = replace(self.now, queued=0, running=0, adapters=())
