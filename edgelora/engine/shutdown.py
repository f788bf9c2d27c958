"""The end of an engine: the deadline of a close, and the order in which memory is given back."""

from __future__ import annotations

import logging
import time

from edgelora.backends.base import Backend
from edgelora.engine.adapters.loader import Loader
from edgelora.engine.commands import Close
from edgelora.engine.prefix_cache.transfer import PrefixTransfer

GRACE_SECONDS = 5.0
"""The time a close may take beyond its timeout: the step that runs, and freeing the base."""

_log = logging.getLogger(__name__)


class Shutdown:
    """The most urgent of the commands to close. Used by the engine's thread alone."""

    def __init__(self) -> None:
        self._close: Close | None = None

    @property
    def begun(self) -> bool:
        """True once a close was asked for."""
        return self._close is not None

    @property
    def overdue(self) -> bool:
        """True if the deadline has passed and the running requests must fail."""
        return self.remaining() == 0.0

    def begin(self, close: Close) -> None:
        """Take in a command to close; a later one can only bring the deadline forward."""
        self._close = close.sooner(self._close)

    def remaining(self) -> float | None:
        """Return the seconds until the deadline, 0.0 after it, and None if there is none."""
        if self._close is None or self._close.deadline is None:
            return None
        return max(0.0, self._close.deadline - time.monotonic())


def free(backend: Backend, loader: Loader, prefixes: PrefixTransfer) -> None:
    """Finish writing prefixes, end the loader's thread and close the backend. Failures are logged, not raised."""
    prefixes.close(GRACE_SECONDS)
    # A load that still runs uses the backend: better kept until the process ends than freed under it.
    if not loader.close(GRACE_SECONDS):
        _log.warning("the backend is not closed: a load still runs")
        return
    try:
        backend.close()
    except Exception:  # Every request has ended by now, and no caller could act on this.
        _log.exception("closing the backend failed")
