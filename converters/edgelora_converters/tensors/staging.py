"""Writing so that a reader sees the whole result or nothing. Owns temporary names, fsync and the rename; no format."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelora_models.errors import StorageError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield a free path beside `out`; the body makes a file or folder there.

    On a clean exit it is synced and renamed onto `out` (a file there is replaced; a folder must not be there). On any
    error it is removed and `out` is as it was. A kill leaves at most a hidden `.NAME.xxxxxxxx.tmp`.
    Raises StorageError for an OSError, from the body too.
    """
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync_tree(temporary)
        temporary.replace(out)
        _sync(out.parent)
    except OSError as error:
        raise _storage_error(out, error) from error
    finally:
        _remove(temporary)


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """Yield another free path beside `out`, for what is only needed on the way; it is removed, whatever happens."""
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        _remove(temporary)


def check_space(out: Path, nbytes: int) -> None:
    """Raise StorageError unless the disk of `out` has room for so many bytes; OSError where the folder is not there."""
    free = shutil.disk_usage(out.parent).free
    if free < nbytes:
        message = f"Writing {out} takes {nbytes / 1e9:.1f} GB; {free / 1e9:.1f} GB are free."
        raise StorageError("no_space", message, "Free some space, or choose another disk. Nothing was written.")


def _remove(path: Path) -> None:
    """Delete a file or a folder; no error where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _storage_error(path: Path, error: OSError) -> StorageError:
    """The tree's word for an OSError while writing `path`."""
    if error.errno in _NO_SPACE:
        message = f"There is no space left to write {path}."
        return StorageError("no_space", message, "Free some space, then try again. Nothing was left behind.")
    message = f"{path} could not be written: {error.strerror or error}."
    return StorageError("write_failed", message, "Check that the folder exists and may be written.")


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for child in sorted(path.iterdir()):
            _sync_tree(child)
    _sync(path)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no directories
    # Windows syncs only what is open for writing; a folder opens only for reading.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
