"""The thread that reads adapters and prefixes, so that the engine never waits for a disk. Owns itself and its queue."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelora.backends.base import Loaded
from edgelora.core.errors import AdapterError, EdgeloraError
from edgelora.core.request import AdapterRef

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadResult:
    ref: AdapterRef
    outcome: Loaded | EdgeloraError


class Loader:
    """Runs one job after another on its own thread and passes each result to `post`."""

    def __init__(self, load: Callable[[Path], Loaded], post: Callable[[Any], None]) -> None:
        self._load = load
        self._post = post
        self._wanted: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="edgelora-loader", daemon=True)
        self._thread.start()

    def request(self, ref: AdapterRef) -> None:
        self.call(lambda: LoadResult(ref, self._read(ref)))

    def call(self, job: Callable[[], object]) -> None:
        """Queue any other job that reads from disk; its result is posted. The job must not raise."""
        self._wanted.put(job)

    def close(self, timeout: float) -> bool:
        """Stop after the current load. Return False if it is still running after `timeout` seconds."""
        self._closed = True
        self._wanted.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._wanted.get()) is not None and not self._closed:
            self._post(job())

    def _read(self, ref: AdapterRef) -> Loaded | EdgeloraError:
        try:
            return self._load(ref.path)
        except EdgeloraError as error:
            return error
        except Exception as error:  # Whatever a file causes must fail its own requests, not this thread.
            _log.exception("loading %s failed", ref)
            message = f"Adapter {ref} could not be loaded ({type(error).__name__}: {error})."
            return AdapterError("adapter_load_failed", message, "Install it again, or look at the log.")
