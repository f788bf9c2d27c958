"""The interface of the engine to its callers.

It is implemented by `edgelora.engine.engine.Engine` (in this process) and by
`edgelora.engine.process.remote.RemoteEngine` (in its own process); the same tests run against both.
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
    """The engine's interface. Every method may be called from any thread."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The base's tokenizer, available before the base is loaded."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """The backend's capabilities. Raises Unavailable(code model_loading) until the base has been loaded once."""
        ...

    @property
    def kv_identity(self) -> str:
        """The backend's KV identity. Raises as `capabilities` does."""
        ...

    @property
    def alive(self) -> bool:
        """True if a request submitted now would be processed."""
        ...

    def health(self) -> EngineHealth: ...

    def wait_ready(self, progress: Progress | None = None) -> None:
        """Wait until the base has been loaded for the first time. Raises the error that prevents it.

        `progress` is called from another thread in the meantime.
        """
        ...

    def submit(self, request: Request, *, keep: PrefixWrite | None = None) -> Stream:
        """Start a generation. `keep`: the prefix of its prompt to write to disk, whether or not it was seen before.

        Raises UsageError, ContextTooLong, AdapterError(code adapter_too_large), Busy(code queue_full, with
        retry_after), Unavailable(code model_loading, with retry_after) or BackendError(code engine_stopped). Every
        later error arrives as Failed in the stream: BackendError(code engine_crash) if the engine's process died.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Cancel a request in any state. Does nothing if the id is unknown or the request has ended."""
        ...

    def fetch(self, ref: AdapterRef, *, pin: bool = False, instead_of: AdapterRef | None = None) -> Future[bool]:
        """Load an adapter that no request waits for; the future tells whether it is then resident.

        A pinned adapter is loaded again whenever the engine restarts. `instead_of` is an adapter that this call unpins.
        Raises BackendError(code engine_stopped).
        """
        ...

    def stats(self) -> EngineStats: ...

    def close(self, *, drain: bool = False, timeout: float | None = 10.0) -> None:
        """Refuse new requests, finish (`drain`) or fail the live ones, and free the base. May be called twice.

        Requests still live after `timeout` seconds (None: no limit) fail with BackendError(code engine_stopped).
        """
        ...
