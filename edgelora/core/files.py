"""Names, paths, locks, temporaries and digests: the one place that joins a name to a folder.

Every OSError that leaves this module is a StorageError, unless a function says otherwise. Writing itself is
`edgelora_models.storage`. Owns no format and no layout.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelora.core.errors import Busy, StorageError, UsageError
from edgelora_models.storage import TEMP_PREFIX, discard, make_folder, storing, sync_file, temp_path

TEMP_MAX_AGE = 24 * 3600.0
"""Seconds after which a temporary without a lock can only be what a killed process left behind."""
LOCK_SUFFIX = ".lock"
CHUNK = 1 << 20
"""Bytes read at a time when copying or hashing."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Windows takes these for devices in every folder, with any extension.
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}


def valid_name(text: str) -> bool:
    """Return whether `text` may name an adapter or a base: safe as a file name on every system, and never a path."""
    if not _NAME.fullmatch(text) or text.endswith("."):
        return False
    return text.partition(".")[0] not in _RESERVED


def check_name(text: str, *, kind: str) -> str:
    """Return `text` if it is a valid name, else raise UsageError. `kind` is the word for the message, such as
    `adapter`."""
    if not valid_name(text):
        nearest = _nearest(text)
        example = f", such as {nearest!r}" if valid_name(nearest) else ""
        raise UsageError(
            "bad_name",
            f"{text!r} cannot name {'an' if kind[:1] in 'aeiou' else 'a'} {kind}.",
            f"Use 1 to 128 small letters (a to z), digits, '.', '_' and '-', beginning with a letter or digit{example} "
            "(--name).",
            param="name",
        )
    return text


def suggest_name(text: str, *, kind: str) -> str:
    """Return the nearest valid name to a folder's or file's own. Raises UsageError where nothing usable is left."""
    nearest = _nearest(text)
    if not nearest:
        message = f"No name for the {kind} can be made of {text!r}: it has no letter from a to z and no digit."
        raise UsageError("bad_name", message, "Give it a name: --name NAME.", param="name")
    return check_name(nearest, kind=kind)


def _nearest(text: str) -> str:
    """Return `text` as a name of small letters; empty if nothing of it is left."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).lstrip("._-")[:128].rstrip("._-")


def valid_digest(text: str) -> bool:
    """Return whether `text` is a sha256 in small hex digits."""
    return _DIGEST.fullmatch(text) is not None


def inside(root: Path, *parts: str) -> Path:
    """Join `root` with single path components. Raises UsageError for one that could lead anywhere else."""
    for part in parts:
        if part in {"", ".", ".."} or any(sign in part for sign in "/\\:\0"):
            raise UsageError("bad_path", f"{part!r} cannot be part of a path below {root}.")
    return root.joinpath(*parts)


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


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """A temporary folder below `folder`, removed at the end whatever happened.

    Its lock file beside it is held as long as this process lives, so that `sweep` knows a killed process's at once.
    """
    temp = temp_path(make_folder(folder))
    with locked(_lock_of(temp), timeout=10, busy=f"{temp} is locked by another process."):  # a sweep looks at it
        with storing(temp):
            temp.mkdir(mode=0o700)
        try:
            yield temp
        finally:
            discard(temp)
            discard(_lock_of(temp))


def sweep(folder: Path, *, now: float | None = None) -> int:
    """Delete what killed processes left in `folder`: workspaces that nobody holds, other temporaries after a day.

    Returns how many were deleted. A live process's workspace stays, however old it is.
    """
    limit = (time.time() if now is None else now) - TEMP_MAX_AGE
    temporaries = {path.with_name(path.name.removesuffix(LOCK_SUFFIX)) for path in folder.glob(f"{TEMP_PREFIX}*")}
    return sum(_sweep_one(path, limit) for path in temporaries)


def _sweep_one(path: Path, limit: float) -> bool:
    lock = _lock_of(path)
    if lock.exists():
        return _sweep_abandoned(path, lock)
    try:
        old = path.lstat().st_mtime < limit
    except FileNotFoundError:
        return False  # its owner has just finished
    if old:
        discard(path)
    return old


def _sweep_abandoned(path: Path, lock: Path) -> bool:
    """Delete a workspace whose lock is free: its process has ended."""
    try:
        with locked(lock, timeout=0, busy=""):
            discard(path)
            discard(lock)
    except (Busy, StorageError):
        return False
    return True


def _lock_of(temp: Path) -> Path:
    return temp.with_name(temp.name + LOCK_SUFFIX)


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
