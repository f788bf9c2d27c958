"""The leases of requests on adapters in the pool, taken and released only here. No policy of which request runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from edgelora.engine.adapters.pool import Pool
from edgelora.engine.scheduler.plan import Load
from edgelora.engine.scheduler.sequence import Sequence

PATIENCE = 16
"""Number of younger requests that may take a lease before one that waits for room; later ones wait behind it."""


def may_take(pool: Pool, sequence: Sequence, blocked: Sequence | None) -> bool:
    """Return True if the request may take its leases now.

    `blocked`: the oldest request that found no room in the pool.
    """
    if not sequence.request.adapters:
        return True
    if blocked is not None and blocked.overtaken >= PATIENCE:
        return False
    return pool.can_hold(*(use.ref for use in sequence.request.adapters))


def take(pool: Pool, sequence: Sequence, detach: list[int]) -> list[Load]:
    """Lease all adapters of a request at once, so that no request holds one while it waits for another.

    Returns the adapters to load. Evicted slots are appended to `detach`.
    """
    refs = [use.ref for use in sequence.request.adapters]
    absent = [ref for ref in refs if pool.slot(ref) is None]
    for ref in refs:
        if ref not in absent:
            pool.lease(ref)  # before room is made for the others
    loads: list[Load] = []
    for ref in absent:
        reservation = pool.reserve(ref)
        detach += reservation.evicted
        loads.append(Load(ref, reservation.slot))
        pool.lease(ref)
    return loads


def give_back(pool: Pool, sequence: Sequence) -> None:
    """Release the leases of a request. Does nothing if it holds none."""
    if sequence.leased:
        for use in sequence.request.adapters:
            pool.release(use.ref)


def check_integrity(pool: Pool, live: Iterable[Sequence]) -> None:
    """Recount the leases. Raises RuntimeError if they are inconsistent."""
    pool.check_integrity()
    held = Counter(use.ref.key for sequence in live if sequence.leased for use in sequence.request.adapters)
    counted = {entry.ref.key: entry.leases for entry in pool.snapshot() if entry.leases}
    if held != counted:
        raise RuntimeError(f"leases {counted}, held {dict(held)}")
