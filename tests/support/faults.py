"""Something happens just before the n-th call that changes the disk: a kill, or a full disk.

Python's profiling hook sees every call of a C function, so no code under test needs to know.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

MAKING = frozenset({"fsync", "link", "mkdir", "open", "rename", "replace", "truncate", "write", "writelines"})
"""Functions that a full disk stops. `open` is the built-in one; deleting, and os.open of a folder, still work."""
CALLS = MAKING | {"os.open", "rmdir", "unlink"}
"""All functions that change the disk, or may."""


class Counter:
    """How many such calls there were so far."""

    def __init__(self) -> None:
        self.calls = 0


@contextmanager
def at_call(number: int, action: Callable[[], None], *, calls: frozenset[str] = CALLS) -> Iterator[Counter]:
    """Run `action` right before the `number`-th of `calls` within the block; what it raises, that call raises."""
    counter = Counter()

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or _name(function) not in calls:
            return
        counter.calls += 1
        if counter.calls == number:
            action()

    sys.setprofile(watch)
    try:
        yield counter
    finally:
        sys.setprofile(None)


def die() -> None:
    """kill -9, this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _name(function: Any) -> str | None:
    """The name of a function of os or of an open file; None for any other."""
    name: str = function.__name__
    if getattr(function, "__module__", None) in {"posix", "nt"}:
        return "os.open" if name == "open" else name
    of_files = function.__module__ == "_io" or type(getattr(function, "__self__", None)).__module__ == "_io"
    return name if of_files else None
