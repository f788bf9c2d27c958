"""Names, paths, locks and writes: the one place that joins a name to a folder and that writes all or nothing.

Every OSError that leaves this module is a StorageError that says where and what to do. Owns no format and no layout.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelora.core.errors import Busy, StorageError, UsageError

TEMP_PREFIX = ".tmp-"
TEMP_MAX_AGE = 24 * 3600.0
"""Seconds after which a temporary can only be what a killed process left behind."""
CHUNK = 1 << 20
"""Bytes read at a time when copying or hashing."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Windows takes these for devices in every folder, with any extension.
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def valid_name(text: str) -> bool:
    """Whether `text` may name an adapter or a base: safe as a file name on every system, and never a path."""
    if not _NAME.fullmatch(text) or text.endswith("."):
        return False
    return text.partition(".")[0] not in _RESERVED


def check_name(text: str, *, kind: str) -> str:
    """`text`, or UsageError. `kind` is the word for the message, such as `adapter`."""
    if not valid_name(text):
        raise UsageError(
            "bad_name",
            f"{text!r} cannot name {'an' if kind[:1] in 'aeiou' else 'a'} {kind}.",
            "Use 1 to 128 small letters, digits, '.', '_' and '-', beginning with a letter or digit (--name).",
            param="name",
        )
    return text


def suggest_name(text: str, *, kind: str) -> str:
    """The nearest valid name to a folder's or file's own. Raises UsageError where nothing usable is left."""
    return check_name(re.sub(r"[^a-z0-9._-]+", "-", text.lower()).lstrip("._-")[:128].rstrip("._-"), kind=kind)


def valid_digest(text: str) -> bool:
    """Whether `text` is a sha256 in small hex digits."""
    return _DIGEST.fullmatch(text) is not None


def inside(root: Path, *parts: str) -> Path:
    """`root` joined with single path components. Raises UsageError for one that could lead anywhere else."""
    for part in parts:
        if part in {"", ".", ".."} or any(sign in part for sign in "/\\:\0"):
            raise UsageError("bad_path", f"{part!r} cannot be part of a path below {root}.")
    return root.joinpath(*parts)


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
            "Free some space, or set EDGELORA_HOME to a folder on another disk.",
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
        return StorageError(
            "no_permission", message, "Change its owner or permissions, or set EDGELORA_HOME elsewhere."
        )
    if error.errno == errno.EROFS:
        message = f"{where} is on a read-only disk."
        return StorageError("read_only", message, "Set EDGELORA_HOME to a folder that can be written.")
    message = f"{where}: {error.strerror or error}."
    return StorageError("io_error", message, "Check the disk, then try again.")


def make_folder(path: Path) -> Path:
    """Create a folder of our own where there is none, with its parents, closed to other users, and synced."""
    if path.is_dir():
        return path
    make_folder(path.parent)
    with storing(path):
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)
    return path


@contextmanager
def locked(path: Path, *, timeout: float, busy: str) -> Iterator[None]:
    """Hold the lock file `path`, alone among all processes and threads.

    Raises Busy saying `busy` after `timeout` seconds. The empty file stays: deleting it would split its waiters.
    """
    from filelock import FileLock, Timeout

    make_folder(path.parent)
    lock = FileLock(path, timeout=timeout)
    try:
        with storing(path):
            # Timeout is an OSError too: take it out before `storing` sees it.
            try:
                lock.acquire()
            except Timeout as error:
                raise Busy("locked", busy, "Wait until it is done, then try again.") from error
        yield
    finally:
        lock.release()


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


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """A temporary folder below `folder`, removed at the end whatever happened."""
    temp = temp_path(make_folder(folder))
    with storing(temp):
        temp.mkdir(mode=0o700)
    try:
        yield temp
    finally:
        discard(temp)


def discard(path: Path) -> None:
    """Delete a file or folder as far as it can be; what is left over is swept or collected later."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # only space is lost, and the caller may be on its way out with a better error


def sweep(folder: Path, *, now: float | None = None) -> int:
    """Delete temporaries in `folder` older than a day, which a killed process left. Returns how many."""
    limit = (time.time() if now is None else now) - TEMP_MAX_AGE
    swept = 0
    for path in folder.glob(f"{TEMP_PREFIX}*"):
        try:
            old = path.lstat().st_mtime < limit
        except FileNotFoundError:
            continue  # its owner has just finished
        if old:
            discard(path)
            swept += 1
    return swept


def copy_hashed(source: Path, target: Path, also: Callable[[bytes], None] | None = None) -> tuple[str, int]:
    """Copy a file's bytes, synced, and hand every block to `also`.

    Returns the sha256 hex and the number of bytes of what was written. Raises OSError.
    """
    with target.open("xb") as writer:

        def write(block: bytes) -> None:
            writer.write(block)
            if also is not None:
                also(block)

        digest, nbytes = hash_blocks(source, write)
        writer.flush()
        sync_file(writer.fileno())
    return digest, nbytes


def hash_blocks(path: Path, also: Callable[[bytes], None]) -> tuple[str, int]:
    """Return the sha256 hex and the size of a file in bytes, and hand every block to `also`. Raises OSError."""
    digest, nbytes = hashlib.sha256(), 0
    with path.open("rb") as reader:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            also(chunk)
            nbytes += len(chunk)
    return digest.hexdigest(), nbytes


def file_digest(path: Path) -> str:
    """Return the sha256 hex of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
