"""What of a file, and of this process, is in memory. Linux only, where the system tells."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

_PAGE = mmap.PAGESIZE


def drop(path: Path) -> bool:
    """Throw a file's pages out of the page cache; whether that worked. They must not be mapped by anyone."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached(path) < 0.01


def cached(path: Path) -> float:
    """Return the share of a file's pages that is in the page cache. Raises OSError where the system does not tell."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
        data = np.frombuffer(mapped, np.uint8)
        pages = np.zeros(-(-size // _PAGE), np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(
            ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)
        )
        del data
    if failed:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return float((pages & 1).mean())


def usage() -> dict[str, int]:
    """Bytes of this process by kind, from /proc/self/smaps_rollup: rss, pss, and of the rss anonymous and file pages.

    PSS counts a page that several processes have in part to each.
    """
    found: dict[str, int] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith("kB"):
            found[name] = int(rest.split()[0]) * 1024
    return {
        "rss": found["Rss"],
        "pss": found["Pss"],
        "anonymous": found["Anonymous"],
        "file": found["Rss"] - found["Anonymous"],
    }
