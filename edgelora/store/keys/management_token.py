"""The token of this installation: who can read its file may manage. Made once, by whoever needs it first."""

from __future__ import annotations

import logging
import os
import re
import stat
from contextlib import AbstractContextManager
from pathlib import Path

from edgelora.core.errors import StorageError
from edgelora.core.files import locked
from edgelora.store.keys.api_key import new_secret
from edgelora_models.storage import storing, write_atomic

logger = logging.getLogger(__name__)

TOKEN_FILE = "token"
LOCK_FILE = "keys.lock"
LOCK_SECONDS = 10.0

_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,256}")


def read_token(folder: Path) -> str | None:
    """Return the token kept in a configuration folder; None where there is none yet. Raises StorageError."""
    path = folder / TOKEN_FILE
    with storing(path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    return parse_token(data)


def ensure_token(folder: Path) -> str:
    """Return the token, made now where there is none. Raises StorageError and Busy."""
    with _alone(folder):
        token = read_token(folder)
        if token is not None:
            _close_to_others(folder / TOKEN_FILE)
            return token
        return _write(folder)


def rotate_token(folder: Path) -> str:
    """Replace the token by a new one and return it; the old one is worth nothing from then on. Raises StorageError and
    Busy."""
    with _alone(folder):
        return _write(folder)


def parse_token(data: bytes) -> str:
    """Raises StorageError for a file that holds anything but a token."""
    text = data.decode("latin-1").strip()
    if not _TOKEN.fullmatch(text):
        raise StorageError(
            "bad_token_file",
            f"The file {TOKEN_FILE!r} in the configuration folder holds no token.",
            "`edgelora keys token --rotate` writes a new one.",
        )
    return text


def _alone(folder: Path) -> AbstractContextManager[None]:
    return locked(folder / LOCK_FILE, timeout=LOCK_SECONDS, busy="Another program is changing the keys.")


def _write(folder: Path) -> str:
    token = new_secret()
    write_atomic(folder / TOKEN_FILE, f"{token}\n".encode(), private=True)
    return token


def _close_to_others(path: Path) -> None:
    """Close the token's file to other users and warn the owner, since they may have read it."""
    if os.name == "nt":
        return  # there the folder's own permissions say who can read
    with storing(path):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(0o600)
            logger.warning("Others could read %s: `edgelora keys token --rotate` makes a new token.", path)
