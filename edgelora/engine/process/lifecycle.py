"""Whether an engine in a process of its own takes requests, since when, and until when not. The caller holds a lock."""

from __future__ import annotations

from edgelora.core.errors import EdgeloraError, Unavailable
from edgelora.engine.stats import EngineHealth, EngineState

_GUESSED_SECONDS = 2.0
"""Seconds that a base is assumed to load before one was measured."""


class Lifecycle:
    """Times are the caller's clock."""

    def __init__(self, now: float) -> None:
        self.state: EngineState = "loading"
        self.restarts = 0
        self.error: EdgeloraError | None = None
        """The error that refuses requests once it is stopped."""
        self._why = "The base is being loaded."
        self._loads = _GUESSED_SECONDS
        """Seconds the last load took."""
        self._began = now
        self._expected = now + self._loads

    def starting(self, now: float) -> None:
        self._began, self._expected = now, now + self._loads

    def loading(self, now: float, share: float) -> None:
        """So much of the base is there."""
        if share > 0:
            self._expected = self._began + (now - self._began) / share

    def ready(self, now: float) -> None:
        self._loads = now - self._began
        self.state, self._why = "ready", ""

    def ended(self, why: str) -> None:
        """The process is dead; another will be started."""
        if self.state in ("ready", "restarting"):
            self.restarts += self.state == "ready"
            self.state = "restarting"
        self._why = f"The engine is started again, because its process ended: {why}."

    def waiting(self, now: float, seconds: float) -> None:
        self._expected = now + seconds + self._loads

    def stop(self, error: EdgeloraError) -> None:
        """For good, for the first reason given."""
        if self.state != "stopped":
            self.state, self.error, self._why = "stopped", error, error.what

    def check(self, now: float) -> None:
        """Raises what a request sent now is refused with."""
        if self.error is not None:
            raise self.error
        if self.state != "ready":
            wait = self._retry_after(now)
            raise Unavailable("model_loading", self._why, "Send the request again in a moment.", retry_after=wait)

    def health(self, now: float, pid: int | None) -> EngineHealth:
        wait = self._retry_after(now) if self.state in ("loading", "restarting") else None
        return EngineHealth(self.state, self._why, wait, self.restarts, pid)

    def _retry_after(self, now: float) -> float:
        return max(1.0, self._expected - now)
