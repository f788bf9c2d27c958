"""The caller of a request: its name, its permissions and its limits. Pure, except for the context variable.

The gate sets it once; then the request's task and the worker threads of its blocking parts can read it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from edgelora.store.keys.api_key import ApiKey, matches


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits per minute; None: no limit."""

    requests: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    name: str = ""
    """The name of the caller's key; empty if the caller has none."""
    adapters: tuple[str, ...] = ("*",)
    """Patterns of the adapters that the caller may use."""
    base: bool = True
    """True if the caller may use the base without an adapter."""
    management: bool = False
    """True if the caller may change what is installed."""
    limits: RateLimits = RateLimits()

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        limits = RateLimits(key.requests_per_minute, key.tokens_per_minute)
        return cls(key.name, key.adapters, key.base, key.management, limits)

    @property
    def sees_all(self) -> bool:
        """True if the caller may use the base and every adapter."""
        return self.base and "*" in self.adapters

    def may_use(self, adapter: str | None) -> bool:
        """Return True if the caller may use the adapter of that name; None stands for the base without an adapter."""
        return self.base if adapter is None else matches(adapter, self.adapters)


ANYONE = Caller()
"""A caller without a key, where none is required."""

OWNER = Caller(management=True)
"""A caller with the management token."""


@dataclass(frozen=True, slots=True)
class Call:
    """The caller of a request, and the counter of its tokens."""

    caller: Caller = ANYONE
    charge: Callable[[int], None] = lambda _tokens: None
    """Takes a number of tokens that were used; a negative one gives some back."""


_NO_CALL = Call()
_current: ContextVar[Call] = ContextVar("edgelora_call", default=_NO_CALL)


def caller() -> Caller:
    """Return the caller of the current request."""
    return _current.get().caller


def charge(tokens: int) -> None:
    """Count used tokens against the caller's limits; a negative number gives some back. On the event loop only."""
    _current.get().charge(tokens)


def set_call(call: Call) -> None:
    """Set the call of the current request's task."""
    _current.set(call)
