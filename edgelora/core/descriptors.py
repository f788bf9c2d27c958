"""The number of files and connections that this process may have open."""

from __future__ import annotations

import sys

WANTED = 65_536
"""More than a server with thousands of connections and adapters has open."""


def raise_limit() -> int | None:
    """Raise the soft limit of open descriptors as far as the hard limit allows, up to WANTED. Return the limit.

    Shells give 256 (macOS) or 1,024 (Linux), which a few hundred idle connections use up; the hard limit is far higher.
    None where there is no such limit (Windows). Never fails: a limit that cannot be raised stays.
    """
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = WANTED if hard == unlimited else min(WANTED, hard)
    if soft == unlimited or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS has a limit of its own below the hard one.
        return soft
    return wanted
