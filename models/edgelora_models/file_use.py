"""Telling other processes that a file is in use, so that none deletes it as garbage.

A shared advisory lock on the open file (flock) says so. It belongs to the open file description, which a mapping keeps:
it ends with the last descriptor or mapping, also when the process is killed. Where there is no flock (Windows), the
system itself refuses to delete a mapped file.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def mark_in_use(file: BinaryIO) -> None:
    """Hold a shared lock on an open file until it and its mappings are closed. A hint: never fails, never waits."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)


def in_use(path: Path) -> bool:
    """Whether some process has marked a file as in use. False where it is missing or cannot be told."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
