"""The state of an engine in its own process, and when it is expected to accept requests. The caller holds a lock."""

from __future__ import annotations

from edgelora.core.errors import EdgeloraError, Unavailable
from edgelora.engine.stats import EngineHealth, EngineState

_GUESSED_SECONDS = 2.0
"""Assumed seconds to load a base before one was measured."""


class Lifecycle:
    """The state and its expected change. All times are on the caller's clock."""

    def __init__(self, now: float) -> None:
        self.state: EngineState = "loading"
        self.restarts = 0
        self.error: EdgeloraError | None = None
        """The error that refuses requests once the engine is stopped."""
        self._why = "The base is being loaded."
        self._loads = _GUESSED_SECONDS
        """Seconds of the last load."""
        self._began = now
        self._expected = now + self._loads

    def starting(self, now: float) -> None:
        self._began, self._expected = now, now + self._loads

    def loading(self, now: float, share: float) -> None:
        """Update the expected end of loading from the share (0 to 1) of the base that is loaded."""
        if share > 0:
            self._expected = self._began + (now - self._began) / share

    def ready(self, now: float) -> None:
        self._loads = now - self._began
        self.state, self._why = "ready", ""

    def ended(self, why: str) -> None:
        """Record that the process died and that another one will be started."""
        if self.state in ("ready", "restarting"):
            self.restarts += self.state == "ready"
            self.state = "restarting"
        self._why = f"The engine is started again, because its process ended: {why}."

    def waiting(self, now: float, seconds: float) -> None:
        self._expected = now + seconds + self._loads

    def stop(self, error: EdgeloraError) -> None:
        """Stop for good; the first error given is kept."""
        if self.state != "stopped":
            self.state, self.error, self._why = "stopped", error, error.what

    def check(self, now: float) -> None:
        """Raise the error that refuses a request sent now, if there is one."""
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
