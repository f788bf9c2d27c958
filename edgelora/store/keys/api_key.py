"""One API key: what it may do and how much. Pure; the secret itself is never kept, only its digest."""

from __future__ import annotations

import hashlib
import secrets
from fnmatch import fnmatchcase
from typing import Annotated

from msgspec import Meta, Struct

_PREFIX = "sk-edgelora-"

PerMinute = Annotated[int, Meta(ge=1, le=10**9)]


class ApiKey(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    """Of the secret: 32 random bytes need no slow hash."""
    created: float
    """Unix seconds."""
    adapters: tuple[str, ...] = ("*",)
    """Names it may use, with `*` and `?`; none at all where it is empty."""
    base: bool = True
    """Whether it may use the base alone."""
    management: bool = False
    """Whether it may change what is installed, as the token of the installation does."""
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None
    expires: float | None = None
    """Unix seconds."""

    def expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires


def new_secret() -> str:
    """What a client sends: 256 random bits, with a beginning that scanners of leaked secrets can know."""
    return f"{_PREFIX}{secrets.token_urlsafe(32)}"


def digest(secret: bytes) -> str:
    """sha256 hex of what a client sends. Any two secrets can be compared through it in the same time."""
    return hashlib.sha256(secret).hexdigest()


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether an adapter's name is one of those that the patterns mean."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
