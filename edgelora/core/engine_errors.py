"""Errors for the engine's clients where something other than their request went wrong. Pure."""

from __future__ import annotations

import logging

from edgelora.core.errors import BackendError, Busy, EdgeloraError

_log = logging.getLogger(__name__)


def engine_stopped(why: str) -> BackendError:
    return BackendError("engine_stopped", why, "Start it again.")


def as_backend_error(error: Exception, what: str) -> EdgeloraError:
    """Return an error of the tree as it is; log anything else and return it as the backend's."""
    if isinstance(error, EdgeloraError):
        return error
    _log.error("%s", what, exc_info=error)
    return BackendError("backend_failed", f"{what} ({type(error).__name__}: {error}).", "Look at the log.")


def queue_full(live: int, *, retry_after: float | None = None) -> Busy:
    return Busy(
        "queue_full",
        f"{live} requests are running or waiting, and no more may wait.",
        "Try again in a moment, or start with a longer queue (EDGELORA_QUEUE).",
        retry_after=retry_after,
    )
