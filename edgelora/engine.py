"""The engine: the only thread that touches a backend. This first form fixes the names others write against."""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.backends.base import Backend, Capabilities, Vocabulary
from edgelora.core import AdapterRef, Request
from edgelora.stream import Stream


@dataclass(frozen=True, slots=True)
class AdapterStats:
    ref: AdapterRef
    slot: int
    resident: bool
    """False while it is being loaded."""
    leases: int
    """Live requests that hold it."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    queued: int
    """Accepted requests without a place in the batch yet (waiting, loading their adapter, ready)."""
    running: int
    adapters: tuple[AdapterStats, ...]
    steps: int
    """Forward passes since the start."""
    tokens: int
    """Tokens chosen since the start."""


class Engine:
    """Owns the backend from here on and closes it. Every method may be called from any thread."""

    def __init__(self, backend: Backend, *, adapter_budget_bytes: int, max_queue: int) -> None:
        raise NotImplementedError

    @property
    def vocabulary(self) -> Vocabulary:
        raise NotImplementedError

    @property
    def capabilities(self) -> Capabilities:
        raise NotImplementedError

    def submit(self, request: Request) -> Stream:
        """Raises UsageError, ContextTooLong, AdapterError(code adapter_too_large), Busy(code queue_full, with
        retry_after) or BackendError(code engine_stopped); everything later arrives as Failed in the stream.
        """
        raise NotImplementedError

    def cancel(self, request_id: str) -> None:
        """Legal in every state; nothing for an ended or unknown id."""
        raise NotImplementedError

    def stats(self) -> EngineStats:
        raise NotImplementedError

    def close(self, *, drain: bool = False, timeout: float = 10.0) -> None:
        """Refuse new requests, finish (drain) or fail the live ones, close the backend. Safe twice.

        What is not done after `timeout` seconds fails with BackendError(code engine_stopped).
        """
        raise NotImplementedError
