"""The limits of MLX on a Mac's memory: how much stays wired, how much freed memory is kept for the next step.

Only where Metal is: on a CPU MLX allocates as any program does, and nothing is set. Owns the two limits and what MLX
counts of its own memory; importing this imports no mlx.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

STEP_BYTES = 512 << 20
"""Bytes for a step's activations, and the maximum kept of them between two steps."""


@dataclass(frozen=True, slots=True)
class MlxLimits:
    """Bytes."""

    wired: int
    """Kept in memory, whatever else asks for it: the base, its KV, the adapters and a step's activations, so that a
    pause does not page them out. Not all that Metal would give: other programs have to live, too."""
    cache: int
    """Freed buffers MLX keeps for itself. Without a limit it keeps all it ever used."""


def limits(*, need: int, adapters: int, working_set: int) -> MlxLimits:
    """`need`: weights and KV; `adapters`: the budget for them; `working_set`: what Metal recommends at most."""
    wired = min(working_set, need + adapters + STEP_BYTES)
    return MlxLimits(wired, min(STEP_BYTES, max(working_set - need - adapters, STEP_BYTES // 8)))


def working_set() -> int | None:
    """Bytes Metal recommends a process to use at most; None where MLX computes on a CPU, or is not installed."""
    try:
        import mlx.core as mx
    except ImportError:
        return None
    if not mx.metal.is_available():
        return None
    size = mx.device_info().get("max_recommended_working_set_size")
    return size if isinstance(size, int) else None


def apply(limits: MlxLimits) -> None:
    """Set both for this process."""
    import mlx.core as mx

    mx.set_wired_limit(limits.wired)
    mx.set_cache_limit(limits.cache)


def allocated_bytes() -> tuple[int, int]:
    """Return the bytes that MLX's own allocator holds in this process, and the most it ever did; 0 where MLX
    was not used. Cheap.
    """
    mx: Any = sys.modules.get("mlx.core")
    return (0, 0) if mx is None else (int(mx.get_active_memory()), int(mx.get_peak_memory()))
