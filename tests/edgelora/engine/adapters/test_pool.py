"""The pool's promises: the budget and the slots hold, what is held stays, the longest unused goes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.core.errors import AdapterError
from edgelora.core.request import AdapterRef
from edgelora.engine.adapters.pool import Pool, Reservation


def ref(name: str, nbytes: int = 10) -> AdapterRef:
    return AdapterRef(name=name, version=name * 8, path=Path(name), nbytes=nbytes)


def hold(pool: Pool, adapter: AdapterRef) -> Reservation:
    reservation = pool.reserve(adapter)
    pool.loaded(adapter)
    return reservation


def test_reserves_the_lowest_free_slot() -> None:
    """Slots are given from 0 up, and nothing is evicted while there is room."""
    pool = Pool(100, 2)
    assert hold(pool, ref("a")) == Reservation(0, ())
    assert hold(pool, ref("b")) == Reservation(1, ())


def test_evicts_the_least_recently_used() -> None:
    """Use, not age, decides who goes."""
    pool = Pool(100, 2)
    hold(pool, ref("a")), hold(pool, ref("b"))
    pool.lease(ref("a"))
    pool.release(ref("a"))
    assert pool.reserve(ref("c")) == Reservation(1, (1,))
    assert pool.slot(ref("b")) is None


def test_evicts_as_many_as_the_bytes_need() -> None:
    """A large adapter may push out several small ones, and all their slots are named."""
    pool = Pool(30, 4)
    for name in "abc":
        hold(pool, ref(name))
    assert pool.reserve(ref("d", 20)) == Reservation(0, (0, 1))
    pool.check_integrity()


def test_a_held_adapter_is_never_evicted() -> None:
    """With every adapter held or loading there is no room, and asking changes nothing."""
    pool = Pool(100, 2)
    hold(pool, ref("a"))
    pool.lease(ref("a"))
    pool.reserve(ref("b"))
    before = pool.snapshot()
    assert not pool.can_hold(ref("c"))
    assert pool.snapshot() == before
    with pytest.raises(RuntimeError):
        pool.reserve(ref("c"))


def test_room_is_judged_by_bytes_and_by_slots() -> None:
    """A free slot without the bytes is no room; the bytes without a slot are none either."""
    pool = Pool(30, 2)
    hold(pool, ref("a", 20))
    pool.lease(ref("a"))
    assert not pool.can_hold(ref("b", 11))
    assert pool.can_hold(ref("b", 10))
    hold(pool, ref("b", 5))
    pool.lease(ref("b"))
    assert not pool.can_hold(ref("c", 1))


@pytest.mark.parametrize("sizes", [(100,), (60, 40), (33, 33, 34)])
def test_too_large_is_an_error_not_a_wait(sizes: tuple[int, ...]) -> None:
    """What could never be in memory together is refused with its size, whatever else is in memory."""
    with pytest.raises(AdapterError, match="100 bytes") as caught:
        Pool(99, 4).can_hold(*(ref(name, size) for name, size in zip("abc", sizes, strict=False)))
    assert caught.value.code == "adapter_too_large"


def test_more_at_once_than_slots_is_an_error() -> None:
    """However small they are."""
    with pytest.raises(AdapterError, match="3 adapters") as caught:
        Pool(99, 2).check_fits(*map(ref, "abc"))
    assert caught.value.code == "too_many_adapters"


def test_room_for_several_is_room_for_all() -> None:
    """Those that are there stay, so they give no room to the others; what nobody holds and nobody asked for does."""
    pool = Pool(30, 4)
    hold(pool, ref("a")), hold(pool, ref("b")), hold(pool, ref("c"))
    assert pool.can_hold(ref("a"), ref("d"), ref("e"))
    pool.lease(ref("b")), pool.lease(ref("c"))
    assert pool.can_hold(ref("a"), ref("b")) and pool.can_hold(ref("d"))
    assert not pool.can_hold(ref("a"), ref("d"))


def test_the_same_version_and_file_share_a_slot() -> None:
    """Names are for people: two names of one version are one adapter."""
    pool = Pool(100, 2)
    one = AdapterRef(name="one", version="v", path=Path("p"), nbytes=10)
    hold(pool, one)
    assert pool.slot(AdapterRef(name="two", version="v", path=Path("p"), nbytes=10)) == 0
    assert pool.slot(AdapterRef(name="one", version="w", path=Path("p"), nbytes=10)) is None


def test_a_failed_load_frees_its_slot() -> None:
    """drop undoes reserve, and only that."""
    pool = Pool(10, 1)
    pool.reserve(ref("a"))
    pool.lease(ref("a"))
    with pytest.raises(RuntimeError):
        pool.drop(ref("a"))
    pool.release(ref("a"))
    pool.drop(ref("a"))
    assert pool.snapshot() == () and pool.used_bytes == 0
    hold(pool, ref("b"))
    with pytest.raises(RuntimeError):
        pool.drop(ref("b"))


def test_leases_are_counted() -> None:
    """Each lease is one release; one release too many is a bug that shows."""
    pool = Pool(10, 1)
    hold(pool, ref("a"))
    pool.lease(ref("a"))
    pool.lease(ref("a"))
    pool.release(ref("a"))
    assert not pool.can_hold(ref("b"))
    pool.release(ref("a"))
    assert pool.can_hold(ref("b"))
    with pytest.raises(RuntimeError):
        pool.release(ref("a"))


def test_snapshot_tells_loading_from_resident() -> None:
    """What a listing shows: slot, residence and leases, the longest unused first."""
    pool = Pool(100, 2)
    hold(pool, ref("a"))
    pool.reserve(ref("b"))
    pool.lease(ref("a"))
    shown = [(e.ref.name, e.slot, e.resident, e.leases) for e in pool.snapshot()]
    assert shown == [("b", 1, False, 0), ("a", 0, True, 1)]


def test_a_pinned_adapter_is_never_evicted() -> None:
    """It stays though nobody holds it and it was used longest ago; others go in its place."""
    pool = Pool(30, 4)
    for name in "abc":
        hold(pool, ref(name))
    pool.pin(ref("a"))
    assert pool.reserve(ref("d")) == Reservation(1, (1,))
    assert [entry.pinned for entry in pool.snapshot()] == [True, False, False]
    assert not pool.can_hold(ref("e", 20))
    pool.unpin(ref("a"))
    assert pool.can_hold(ref("e", 20))
    pool.check_integrity()


def test_a_pins_room_is_set_aside_before_it_is_loaded() -> None:
    """From the moment it is pinned nobody else is given its bytes or its slot."""
    pool = Pool(30, 2)
    pool.pin(ref("a", 20))
    with pytest.raises(AdapterError, match="pinned ones take 20 of it"):
        pool.can_hold(ref("b", 11))
    hold(pool, ref("b", 10))
    with pytest.raises(AdapterError, match="1 pinned ones"):
        pool.check_fits(ref("b", 5), ref("c", 5))
    assert pool.can_hold(ref("a", 20))
    hold(pool, ref("a", 20))
    pool.check_integrity()


def test_pins_beyond_the_memory_are_refused() -> None:
    """By bytes or by slots, with the numbers, and what was pinned before stays pinned."""
    pool = Pool(30, 2)
    pool.pin(ref("a", 20))
    with pytest.raises(AdapterError, match=r"takes 11 bytes and 1 pinned ones take 20; .* 30 bytes") as caught:
        pool.pin(ref("b", 11))
    assert caught.value.code == "pins_too_large"
    pool.pin(ref("b", 10))
    with pytest.raises(AdapterError, match="in 2 places"):
        pool.pin(ref("c", 0))
    assert {pin.name for pin in pool.pinned.values()} == {"a", "b"}


def test_pinning_twice_and_unpinning_what_is_not() -> None:
    """Both change nothing."""
    pool = Pool(30, 2)
    pool.pin(ref("a", 20))
    pool.pin(ref("a", 20))
    pool.unpin(ref("b"))
    assert {pin.name for pin in pool.pinned.values()} == {"a"}
