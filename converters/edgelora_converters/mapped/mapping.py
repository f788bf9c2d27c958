"""A file's bytes as an array, mapped and not copied. Owns the mapping and its lifetime; knows no format.

The array, and every view of it, keeps the mapping alive; with the last of them it is given back. What a mapping costs
is trust: should the file be cut while it is mapped, touching the part that is gone ends the process (SIGBUS). So only
files are mapped that nobody changes: see docs/decisions/0004-mapped-adapters.md.
"""

from __future__ import annotations

import mmap
import os
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgelora_models.file_use import mark_in_use

Bytes = NDArray[np.uint8]

_PAGE = 4096
"""Bytes; pages may be larger, never smaller."""


def map_bytes(file: BinaryIO) -> Bytes:
    """Return all bytes of an open file, read-only. Where its file system cannot map, they are read. Raises OSError.

    As long as they are mapped the file is marked as in use (see `edgelora_models.file_use`).
    """
    mark_in_use(file)
    size = os.fstat(file.fileno()).st_size
    if not size:
        return np.empty(0, np.uint8)
    try:
        mapped: Bytes = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
    except OSError:
        file.seek(0)
        mapped = np.fromfile(file, np.uint8, count=size)
        mapped.flags.writeable = False
    return mapped


def release(data: Bytes) -> None:
    """Let go of the pages of what `map_bytes` gave, for who reads a file once: they come back when touched. A hint."""
    mapped = data.base.obj if isinstance(data.base, memoryview) else None
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def prefetch(file: BinaryIO) -> None:
    """Ask the system to fetch an open file into the page cache; returns before it is there. A hint: never fails."""
    advise: Any = getattr(os, "posix_fadvise", None)
    if advise is None:
        return
    try:
        advise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
    except OSError:
        return  # a hint for a file system that takes none


def touch(data: Bytes) -> None:
    """Bring every page of `data` into this process, so that who reads it next takes no page fault.

    numpy reads one byte of each without the interpreter's lock: other threads go on while the disk works.
    """
    if data.size:
        data[::_PAGE].max()
