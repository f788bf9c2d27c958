"""The token and keys of a running server: read when it starts, and again whenever a file changes."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from edgelora.store.keys.api_key import ApiKey, digest
from edgelora.store.keys.management_token import TOKEN_FILE, parse_token
from edgelora.store.keys.reloading_file import ReloadingFile
from edgelora.store.keys.store import KEYS_FILE, parse_keys


class KeyRing:
    """Every look costs two stats. Raises StorageError at the start only; later what cannot be read changes nothing."""

    def __init__(self, folder: Path) -> None:
        no_keys: tuple[ApiKey, ...] = ()
        self._keys = ReloadingFile(folder / KEYS_FILE, parse_keys, absent=no_keys)
        self._token = ReloadingFile(folder / TOKEN_FILE, lambda data: digest(parse_token(data).encode()), absent="")

    @property
    def in_use(self) -> bool:
        """Return whether there is any key, expired ones included: an expiry must not open a server."""
        return bool(self._keys.get())

    def is_token(self, given: Sequence[str]) -> bool:
        """Return whether one of the digests is the management token's."""
        token = self._token.get()
        return bool(token) & any(hmac.compare_digest(digest, token) for digest in given)

    def find(self, given: Sequence[str], now: float) -> ApiKey | None:
        """Return the key that one of the digests is of, unless it has expired. Looks at all of them, in the same
        time."""
        matching = [key for key in self._keys.get() for digest in given if hmac.compare_digest(digest, key.sha256)]
        return next((key for key in matching if not key.expired(now)), None)
