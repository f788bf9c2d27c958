"""MLX's limits on Metal, as numbers: what is wired, what is kept of freed memory."""

from __future__ import annotations

import pytest

from edgelora.backends.mlx.limits import STEP_BYTES, allocated_bytes, limits, working_set

GB = 10**9


def test_what_it_needs_is_wired_and_no_more() -> None:
    """Base, KV, adapters and a step; never more than Metal gives."""
    found = limits(need=5 * GB, adapters=GB, working_set=20 * GB)
    assert (found.wired, found.cache) == (6 * GB + STEP_BYTES, STEP_BYTES)
    tight = limits(need=5 * GB, adapters=GB, working_set=5 * GB + 10**8)
    assert (tight.wired, tight.cache) == (5 * GB + 10**8, STEP_BYTES // 8)


@pytest.mark.mlx
def test_nothing_is_set_on_a_cpu() -> None:
    """Without Metal there is no working set, and so no limit."""
    mx = pytest.importorskip("mlx.core")
    assert (working_set() is None) == (not mx.metal.is_available())


@pytest.mark.mlx
def test_what_it_holds_is_counted() -> None:
    """By MLX itself; the most there was stays."""
    mx = pytest.importorskip("mlx.core")
    array = mx.zeros((1 << 20,), dtype=mx.uint8)
    mx.eval(array)
    held, peak = allocated_bytes()
    assert peak >= held >= 1 << 20
    del array
    assert allocated_bytes()[1] >= peak
