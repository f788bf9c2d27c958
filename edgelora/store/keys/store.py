"""The named API keys on disk: one file, replaced as a whole under a lock, readable by this user alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from edgelora.core.errors import NotFound, StorageError, UsageError
from edgelora.core.files import check_name, locked
from edgelora.core.newer import refuse_newer
from edgelora.store.keys.api_key import ApiKey, digest, new_secret
from edgelora.store.keys.management_token import LOCK_FILE, LOCK_SECONDS
from edgelora_models.storage import storing, write_atomic

KEYS_FILE = "keys.json"
FORMAT = 1


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    keys: tuple[ApiKey, ...]


class KeyStore:
    """The keys of one configuration folder. Readers take no lock."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self.path = folder / KEYS_FILE

    def list(self) -> tuple[ApiKey, ...]:
        """Return all keys, by name. Raises StorageError."""
        with storing(self.path):
            try:
                data = self.path.read_bytes()
            except FileNotFoundError:
                return ()
        return parse_keys(data)

    def add(
        self,
        name: str,
        *,
        adapters: Sequence[str] = ("*",),
        base: bool = True,
        management: bool = False,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        expires: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Add a key and return it with its secret, which is kept nowhere: this is the only time that it can be seen.

        Raises UsageError (a bad name, one that is taken, an expiry that has passed), StorageError, Busy.
        """
        check_name(name, kind="key")
        now = self._clock()
        if expires is not None and expires <= now:
            raise UsageError("expired", "The key would have expired already.", "Give a later time.", param="expires")
        secret = new_secret()
        key = ApiKey(
            name=name,
            sha256=digest(secret.encode()),
            created=now,
            adapters=tuple(adapters),
            base=base,
            management=management,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            expires=expires,
        )
        with self._alone():
            keys = self.list()
            if any(other.name == name for other in keys):
                raise UsageError("key_exists", f"There is a key named {name!r}.", "Remove it, or choose another name.")
            self._write((*keys, key))
        return key, secret

    def remove(self, names: Sequence[str]) -> None:
        """Remove all of the named keys, or none. Raises NotFound with near names, StorageError, Busy."""
        with self._alone():
            keys = self.list()
            for name in names:
                if all(key.name != name for key in keys):
                    raise NotFound("key", name, [key.name for key in keys], "`edgelora keys ls` lists the keys.")
            self._write(tuple(key for key in keys if key.name not in names))

    def _alone(self) -> AbstractContextManager[None]:
        return locked(self._folder / LOCK_FILE, timeout=LOCK_SECONDS, busy="Another program is changing the keys.")

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        data = msgspec.json.encode(_File(FORMAT, tuple(sorted(keys, key=lambda key: key.name))))
        write_atomic(self.path, msgspec.json.format(data) + b"\n", private=True)


def parse_keys(data: bytes) -> tuple[ApiKey, ...]:
    """Raises StorageError for anything but a file of keys that this version understands."""
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        refuse_newer(data, error, Path(KEYS_FILE), version="version", known=FORMAT)
        raise _bad(str(error)) from None
    refuse_newer(data, None, Path(KEYS_FILE), version="version", known=FORMAT)
    if file.version != FORMAT:
        raise _bad(f"its version is {file.version}")
    return file.keys


def _bad(why: str) -> StorageError:
    return StorageError(
        "bad_keys_file",
        f"The file {KEYS_FILE!r} in the configuration folder cannot be used: {why}.",
        "Restore it, or remove it.",
    )
