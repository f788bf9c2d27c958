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
    """Maximum number of tokens of one sequence, prompt and answer together."""
    vocabulary_size: int
    """Number of token ids; they begin at 0."""
    capacity: int
    """Maximum number of requests that run or wait at the same time."""
    adapters: AdapterLimits
    """Memory and slots for adapters."""

    @classmethod
    def of(cls, capabilities: Capabilities, *, vocabulary_size: int, max_queue: int, budget_bytes: int) -> Self:
        """Return the limits of an engine over a backend.

        `max_queue`: number of requests that may wait beside the running ones. `budget_bytes`: memory for adapters.
        """
        return cls(
            sequence_tokens=capabilities.sequence_tokens,
            vocabulary_size=vocabulary_size,
            capacity=capabilities.max_sequences + max_queue,
            adapters=AdapterLimits(budget_bytes, capabilities.max_slots),
        )

    def check(self, request: Request, *, pinned: Mapping[Key, AdapterRef] = NO_PINS) -> None:
        """Refuse a request that could never run. May be called from any thread.

        Raises UsageError (code empty_prompt or bad_token), ContextTooLong, AdapterError.
        """
        self.check_size(request, pinned=pinned)
        self._check_tokens(request)

    def check_size(self, request: Request, *, pinned: Mapping[Key, AdapterRef] = NO_PINS) -> None:
        """Refuse a request for its size alone; its tokens are not read. Raises as `check` does."""
        if not request.prompt:
            raise UsageError("empty_prompt", "The prompt is empty.", "Give at least one token.", param="prompt")
        if len(request.prompt) >= self.sequence_tokens:
            raise ContextTooLong(tokens=len(request.prompt), limit=self.sequence_tokens)
        self.adapters.check((use.ref for use in request.adapters), pinned=pinned)

    def _check_tokens(self, request: Request) -> None:
        last = self.vocabulary_size - 1
        if min(request.prompt) < 0 or max(request.prompt) > last:
            raise _bad_token(f"The prompt has a token outside 0 to {last}.", "prompt")
        for token, _ in request.sampling.logit_bias:
            if not 0 <= token <= last:
                raise _bad_token(f"logit_bias names token {token}; the vocabulary has 0 to {last}.", "logit_bias")
        for token in request.sampling.stop_token_ids:
            if not 0 <= token <= last:
                message = f"stop_token_ids names token {token}; the vocabulary has 0 to {last}."
                raise _bad_token(message, "stop_token_ids")


def _bad_token(message: str, param: str) -> UsageError:
    return UsageError("bad_token", message, "Use this base's tokenizer.", param=param)
