"""Who a request is from, as far as it matters: what they may use and how much. Pure, but for the context it is kept in.

Set once by the gate, and then there for everything that is done for the request: in its task, and in the worker threads
that its blocking parts run in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from edgelora.store.keys.api_key import ApiKey, matches


@dataclass(frozen=True, slots=True)
class RateLimits:
    """A minute's worth at most; None is without limit."""

    requests: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    name: str = ""
    """A key's name. Empty: nobody in particular."""
    adapters: tuple[str, ...] = ("*",)
    base: bool = True
    management: bool = False
    limits: RateLimits = RateLimits()

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        limits = RateLimits(key.requests_per_minute, key.tokens_per_minute)
        return cls(key.name, key.adapters, key.base, key.management, limits)

    @property
    def sees_all(self) -> bool:
        """Whether nothing that is installed is kept from them."""
        return self.base and "*" in self.adapters

    def may_use(self, adapter: str | None) -> bool:
        """Whether an adapter of that name may answer them; None is the base alone."""
        return self.base if adapter is None else matches(adapter, self.adapters)


ANYONE = Caller()
"""Who brought no key where none is asked for."""

OWNER = Caller(management=True)
"""Who brought the token of the installation."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as what is done for it sees it."""

    who: Caller = ANYONE
    charge: Callable[[int], None] = lambda _tokens: None
    """Told how many tokens an answer took."""


_NOBODY = Call()
_current: ContextVar[Call] = ContextVar("edgelora_call", default=_NOBODY)


def caller() -> Caller:
    """Who the request is from that is being worked on."""
    return _current.get().who


def charge(tokens: int) -> None:
    """An answer took so many tokens, prompt included. On the server's loop only."""
    _current.get().charge(tokens)


def set_call(call: Call) -> None:
    """For the rest of this request's task."""
    _current.set(call)
