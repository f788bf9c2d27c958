"""The limits beyond which an engine refuses a request at once. Pure.

The scheduler keeps these limits, and an engine in another process refuses by the same value without a scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from edgelora.backends.base import Capabilities
from edgelora.core.errors import ContextTooLong, UsageError
from edgelora.core.request import AdapterRef, Request
from edgelora.engine.adapters.limits import NO_PINS, AdapterLimits, Key


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one engine."""

    sequence_tokens: int
    """Tokens of prompt and answer of one sequence at most."""
    capacity: int
    """Requests that may run or wait at once."""
    adapters: AdapterLimits

    @classmethod
    def of(cls, capabilities: Capabilities, *, max_queue: int, budget_bytes: int) -> Self:
        """Return the limits of an engine over a backend. `max_queue`: requests that may wait beside the running."""
        adapters = AdapterLimits(budget_bytes, capabilities.max_slots)
        return cls(capabilities.sequence_tokens, capabilities.max_sequences + max_queue, adapters)

    def check(self, request: Request, *, pinned: Mapping[Key, AdapterRef] = NO_PINS) -> None:
        """Refuse what could never run. Raises UsageError, ContextTooLong, AdapterError. Any thread."""
        if not request.prompt:
            raise UsageError("empty_prompt", "The prompt is empty.", "Give at least one token.", param="prompt")
        if len(request.prompt) >= self.sequence_tokens:
            raise ContextTooLong(tokens=len(request.prompt), limit=self.sequence_tokens)
        self.adapters.check((use.ref for use in request.adapters), pinned=pinned)
