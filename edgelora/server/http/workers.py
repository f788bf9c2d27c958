"""Threads for blocking work of requests, in groups with limits of their own.

anyio's default limit is one for all work. A few large texts would fill it, and looking at models, managing and stopping
would wait behind them. Work on a client's text is bounded by the processors instead, since it does nothing but compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from edgelora.core.machine import usable_processors

STARTS = 32
"""Generations that are started at the same time. Most of a start is work on text; some wait for a conversion."""

T = TypeVar("T")

_texts: RunVar[CapacityLimiter] = RunVar("edgelora_texts")
_starts: RunVar[CapacityLimiter] = RunVar("edgelora_starts")


async def run_text(work: Callable[[], T]) -> T:
    """Run work on a client's text in a thread, as many at a time as there are processors. Raises what `work` raises."""
    return await to_thread.run_sync(work, limiter=_limiter(_texts, usable_processors()))


async def run_start(work: Callable[[], T]) -> T:
    """Run the start of a generation in a thread, STARTS at a time. Raises what `work` raises."""
    return await to_thread.run_sync(work, limiter=_limiter(_starts, STARTS))


def _limiter(limiters: RunVar[CapacityLimiter], count: int) -> CapacityLimiter:
    """Return the event loop's limiter."""
    try:
        return limiters.get()
    except LookupError:
        limiter = CapacityLimiter(count)
        limiters.set(limiter)
        return limiter
