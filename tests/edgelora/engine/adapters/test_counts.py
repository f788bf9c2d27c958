"""Counts by adapter: bounded, and never going down."""

from __future__ import annotations

from pathlib import Path

from edgelora.core.request import AdapterRef
from edgelora.engine.adapters.counts import NAMES, OTHERS, AdapterCounter, AdapterCounts
from edgelora.engine.adapters.pool import Pool


def ref(name: str, version: str = "") -> AdapterRef:
    return AdapterRef(name=name, version=version or name, path=Path(name), nbytes=10)


def test_the_pool_counts_what_it_does() -> None:
    """Uses, the ones that found the adapter in memory, loads, evictions, and when it was last held or let go."""
    now = [100.0]
    pool = Pool(10, 4, clock=lambda: now[0])
    pool.reserve(ref("a"))
    pool.lease(ref("a"))
    pool.loaded(ref("a"))
    pool.lease(ref("a"))
    now[0] = 105.0
    pool.release(ref("a"))
    pool.release(ref("a"))
    assert [(entry.requests, entry.last_used) for entry in pool.snapshot()] == [(2, 105.0)]
    pool.reserve(ref("b"))
    pool.loaded(ref("b"))
    assert [(entry.requests, entry.last_used) for entry in pool.snapshot()] == [(0, 0.0)]
    assert pool.counter.snapshot() == (AdapterCounts("a", 2, 1, 1, 1, 105.0), AdapterCounts("b", 0, 0, 1, 0, 0.0))


def test_a_failed_load_is_no_load() -> None:
    """What never came into memory was not loaded."""
    pool = Pool(10, 4)
    pool.reserve(ref("a"))
    pool.drop(ref("a"))
    assert pool.counter.snapshot() == ()


def test_names_are_bounded_and_counts_only_grow() -> None:
    """Beyond NAMES adapters the others share one row; the earlier ones keep theirs, and no use is lost."""
    counter = AdapterCounter()
    for number in range(NAMES + 50):
        counter.used(ref(f"a{number}"), hit=True, now=1.0)
    counter.used(ref("a0"), hit=False, now=2.0)
    told = {counts.name: counts for counts in counter.snapshot()}
    assert len(told) == NAMES + 1
    assert (told["a0"].requests, told["a0"].hits, told[OTHERS].requests) == (2, 1, 50)


def test_versions_have_names() -> None:
    """All versions of a name count together; of very many versions the oldest are no longer known."""
    counter = AdapterCounter()
    for number in range(2000):
        counter.used(ref("a", f"v{number}"), hit=False, now=0.0)
    counter.loaded(ref("b", "w"))
    assert counter.names(["w", "v1999"]) == ("a", "b") and counter.names(["v0"]) == (OTHERS,)
    assert [counts.requests for counts in counter.snapshot()] == [2000, 0]


def test_a_snapshot_is_made_anew_only_where_something_changed() -> None:
    """It is asked for twice in every step."""
    counter = AdapterCounter()
    counter.loaded(ref("a"))
    before = counter.snapshot()
    assert counter.snapshot() is before
    counter.evicted(ref("a"))
    assert counter.snapshot() != before
