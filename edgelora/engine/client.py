"""The engine as its callers see it. Implemented by `Engine` (this process) and `RemoteEngine` (its own process).

`edgelora.engine.engine.Engine` and `edgelora.engine.process.remote.RemoteEngine` keep it, and the same tests
run over both.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from edgelora.backends.base import Capabilities
from edgelora.core.progress import Progress
from edgelora.core.request import AdapterRef, Request
from edgelora.core.tokenizer import Tokenizer
from edgelora.engine.prefix_cache.cache import PrefixWrite
from edgelora.engine.stats import EngineHealth, EngineStats
from edgelora.engine.stream import Stream


class EngineClient(Protocol):
    """Every method may be called from any thread."""

    @property
    def tokenizer(self) -> Tokenizer:
        """There before the base is."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """Raises Unavailable(code model_loading) before the base was in memory for the first time."""
        ...

    @property
    def kv_identity(self) -> str:
        """The backend's. Raises as `capabilities` does."""
        ...

    @property
    def alive(self) -> bool:
        """Whether a request sent now would be worked on."""
        ...

    def health(self) -> EngineHealth: ...

    def wait_ready(self, progress: Progress | None = None) -> None:
        """Return once the base is in memory for the first time. Raises what keeps it out.

        `progress` is called from another thread meanwhile.
        """
        ...

    def submit(self, request: Request, *, keep: PrefixWrite | None = None) -> Stream:
        """Begin an answer. `keep`: what of its prompt is written to disk, seen before or not.

        Raises UsageError, ContextTooLong, AdapterError(code adapter_too_large), Busy(code queue_full, with
        retry_after), Unavailable(code model_loading, with retry_after) or BackendError(code engine_stopped); everything
        later arrives as Failed in the stream: BackendError(code engine_crash) where the process that computed died.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Legal in every state; nothing for an ended or unknown id."""
        ...

    def fetch(self, ref: AdapterRef, *, pin: bool = False, instead_of: AdapterRef | None = None) -> Future[bool]:
        """Load an adapter that no request waits for; whether it is in memory then. A pin is loaded again wherever the
        engine had to start anew; `instead_of` is a pin that ends with this. Raises BackendError(code engine_stopped).
        """
        ...

    def stats(self) -> EngineStats: ...

    def close(self, *, drain: bool = False, timeout: float | None = 10.0) -> None:
        """Refuse new requests, finish (drain) or fail the live ones, give the base back. Safe twice.

        What is not done after `timeout` seconds (None: no limit) fails with BackendError(code engine_stopped).
        """
        ...
