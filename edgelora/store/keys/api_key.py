"""An API key with its permissions and limits. Pure; only the digest of the secret is kept."""

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
    """Digest of the secret; 32 random bytes need no slow hash."""
    created: float
    """Unix seconds."""
    adapters: tuple[str, ...] = ("*",)
    """Names it may use, with `*` and `?`; none at all where it is empty."""
    base: bool = True
    """True if the key may use the base alone."""
    management: bool = False
    """True if the key may change what is installed, as the installation's management token does."""
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None
    expires: float | None = None
    """Unix seconds."""

    def expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires


def new_secret() -> str:
    """Generate a secret: 256 random bits behind a prefix that scanners for leaked secrets can recognize."""
    return f"{_PREFIX}{secrets.token_urlsafe(32)}"


def digest(secret: bytes) -> str:
    """sha256 hex of what a client sends. Any two secrets can be compared through it in the same time."""
    return hashlib.sha256(secret).hexdigest()


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether one of the patterns matches an adapter's name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
