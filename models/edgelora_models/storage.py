"""Writing to disk, all or nothing: atomic writes, fsync, renames, free space. The one place that does it.

Every OSError that leaves a context manager of this module is a StorageError that says where and what to do. Owns no
format, no layout and no lock.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelora_models.errors import StorageError

TEMP_PREFIX = ".tmp-"

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def size_text(nbytes: int) -> str:
    """Bytes for people: 4.9 GB, 84.0 MB, 512 bytes."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk that holds `folder`, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with storing(folder):
        return shutil.disk_usage(folder).free


def check_space(folder: Path, needed: int, *, what: str) -> None:
    """Raise StorageError where less than `needed` bytes are free; called before large work, not instead of care."""
    free = free_bytes(folder)
    if free < needed:
        raise StorageError(
            "no_space",
            f"{what} needs {size_text(needed)}, and {size_text(free)} are free in {folder}.",
            "Free some space, or use a folder on another disk.",
        )


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a StorageError about `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """The tree's word for an OSError at `path`."""
    where = Path(error.filename) if isinstance(error.filename, str) else path
    if error.errno in _NO_SPACE:
        free = size_text(free_bytes(path.parent))
        message = f"The disk is full: {where} could not be written ({free} free)."
        return StorageError("no_space", message, "Free some space, then try again. Nothing was left half-done.")
    if error.errno in {errno.EACCES, errno.EPERM}:
        message = f"{where} may not be read or written by this user."
        return StorageError("no_permission", message, "Change its owner or permissions, or write elsewhere.")
    if error.errno == errno.EROFS:
        message = f"{where} is on a read-only disk."
        return StorageError("read_only", message, "Write to a folder on another disk.")
    if error.errno == errno.ENOTDIR and (file := _file_above(where)) is not None:
        return _not_a_folder(file)
    if error.errno == errno.ENOENT:
        shown = path if where.name.startswith(TEMP_PREFIX) else where
        return StorageError("io_error", f"{shown}: {error.strerror}.", "Check that the folder exists, then try again.")
    message = f"{where}: {error.strerror or error}."
    return StorageError("io_error", message, "Check the disk, then try again.")


def _file_above(path: Path) -> Path | None:
    """Return what stands at `path` or above it and is a file; None if there is none."""
    return next((at for at in (path, *path.parents) if at.is_file()), None)


def _not_a_folder(file: Path) -> StorageError:
    message = f"{file} is a file, where a folder is needed."
    remedy = "Move it away, or name another folder (for edgelora's own: EDGELORA_HOME)."
    return StorageError("not_a_folder", message, remedy)


def make_folder(path: Path) -> Path:
    """Create a folder of our own where there is none, with its parents, closed to other users, and synced."""
    if path.is_dir():
        return path
    if path.is_file():
        raise _not_a_folder(path)
    make_folder(path.parent)
    with storing(path):
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)
    return path


def write_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace `path` by `data`, synced; a reader sees the old bytes or the new ones. Leaves nothing on failure.

    `private`: no other user can read it (mode 0600), at any moment.
    """
    make_folder(path.parent)
    temp = temp_path(path.parent)
    try:
        with storing(path):
            temp.touch(0o600 if private else 0o666, exist_ok=False)
            with temp.open("wb") as file:
                file.write(data)
                file.flush()
                sync_file(file.fileno())
            move(temp, path)
    finally:
        discard(temp)


def move(source: Path, target: Path) -> None:
    """Rename a synced file onto `target`, and sync the folder. Raises OSError."""
    source.replace(target)
    sync_folder(target.parent)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder to `target`, where none may be, and sync: every file of it, then both folders. Raises OSError."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            sync_path(path)
        else:
            sync_folder(path)
    sync_folder(source)
    source.rename(target)
    sync_folder(target.parent)


def sync_file(descriptor: int) -> None:
    """Push an open file's bytes to the disk itself. Raises OSError."""
    if sys.platform == "darwin":
        import fcntl

        # Apple's fsync stops at the drive's cache; this goes through it, where the file system can.
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in {errno.ENOTSUP, errno.EINVAL}:
                raise
        else:
            return
    os.fsync(descriptor)


def sync_path(path: Path) -> None:
    """`sync_file` for a closed file. Raises OSError."""
    with path.open("rb+") as file:  # Windows syncs only what is open for writing
        sync_file(file.fileno())


def sync_folder(path: Path) -> None:
    """Push a folder's names to the disk, so that a rename survives a power cut. Raises OSError."""
    if os.name == "nt":
        return  # Windows opens no folders and needs none of this
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temp_path(folder: Path) -> Path:
    """A fresh temporary name in `folder`; `sweep` knows it by its prefix."""
    return folder / f"{TEMP_PREFIX}{secrets.token_hex(8)}"


def discard(path: Path) -> None:
    """Delete a file or folder as far as it can be; what is left over is swept or collected later."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # only space is lost, and the caller may be on its way out with a better error


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield a free path beside `out`; the body makes a file or folder there.

    On a clean exit it is synced and renamed onto `out` (a file there is replaced; a folder must not be there). On any
    error it is removed and `out` is as it was. A kill leaves at most a hidden temporary. Raises StorageError for an
    OSError, from the body too.
    """
    temporary = temp_path(out.parent)
    try:
        with storing(out):
            yield temporary
            if temporary.is_dir():
                move_folder(temporary, out)
            else:
                sync_path(temporary)
                move(temporary, out)
    finally:
        discard(temporary)


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """Yield another free path beside `out` for intermediate results; whatever is there is removed at the end."""
    temporary = temp_path(out.parent)
    try:
        yield temporary
    finally:
        discard(temporary)
