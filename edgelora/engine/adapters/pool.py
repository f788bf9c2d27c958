"""The adapters in memory: slots, leases, pins, and eviction. No I/O, no threads.

The pool only keeps count: the engine loads, attaches and detaches adapters as `reserve` directs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgelora.core.errors import AdapterError
from edgelora.core.request import AdapterRef
from edgelora.engine.adapters.counts import AdapterCounter
from edgelora.engine.adapters.limits import AdapterLimits, total

Key = tuple[str, str]
"""`AdapterRef.key`: two references with the same key share one slot."""


@dataclass(frozen=True, slots=True)
class PoolEntry:
    ref: AdapterRef
    slot: int
    resident: bool
    """False while the adapter is being loaded."""
    leases: int
    """Number of live requests that hold a lease on the adapter."""
    pinned: bool = False
    """True if the adapter is never evicted, even without a lease."""
    requests: int = 0
    """Number of requests that used the adapter since it was loaded."""
    last_used: float = 0.0
    """Time of the last lease or release by the pool's clock; 0.0 if the adapter was never leased."""


@dataclass(frozen=True, slots=True)
class Reservation:
    slot: int
    evicted: tuple[int, ...]
    """Slots to detach before this one is attached; may contain `slot` itself."""


@dataclass(slots=True)
class _Entry:
    ref: AdapterRef
    slot: int
    resident: bool = False
    leases: int = 0
    requests: int = 0
    last_used: float = 0.0


class Pool:
    """At most `slots` adapters in at most `budget_bytes`. Evicts the least recently used one without a lease or pin."""

    def __init__(self, budget_bytes: int, slots: int, *, clock: Callable[[], float] = float) -> None:
        """`clock` returns Unix seconds and is used only for last-used times; the default always returns 0."""
        self.limits = AdapterLimits(budget_bytes, slots)
        self.counter = AdapterCounter()
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        """Entries by key, least recently used first."""
        self.pinned: Mapping[Key, AdapterRef] = {}
        """Pinned adapters, whose room is reserved whether or not they are loaded.

        The mapping is replaced, never changed, so any thread may read it.
        """

    @property
    def budget_bytes(self) -> int:
        """Maximum total bytes of the adapters in memory."""
        return self.limits.budget_bytes

    @property
    def slots(self) -> int:
        """Maximum number of adapters in memory."""
        return self.limits.slots

    @property
    def used_bytes(self) -> int:
        return total(entry.ref for entry in self._entries.values())

    def check_fits(self, *refs: AdapterRef) -> None:
        """Check that the adapters can be in memory together at all, beside the pinned ones.

        Raises AdapterError(code adapter_too_large), or AdapterError(code too_many_adapters) if there are too few slots.
        """
        self.limits.check(refs, pinned=self.pinned)

    def slot(self, ref: AdapterRef) -> int | None:
        """Return the slot of an adapter that is resident or being loaded, otherwise None."""
        entry = self._entries.get(ref.key)
        return entry.slot if entry else None

    def resident(self, ref: AdapterRef) -> bool:
        entry = self._entries.get(ref.key)
        return entry is not None and entry.resident

    def held(self, ref: AdapterRef) -> int:
        """Return the slot of a leased adapter."""
        return self._entries[ref.key].slot

    def can_hold(self, *refs: AdapterRef) -> bool:
        """Return True if all these adapters fit now, after evicting only adapters without a lease or pin.

        Raises AdapterError as `check_fits` does.
        """
        self.check_fits(*refs)
        requested = {ref.key: ref for ref in refs}
        stay = {key: entry.ref for key, entry in self._entries.items() if not self._evictable(entry)}
        together = {**requested, **stay, **self.pinned}.values()
        return total(together) <= self.budget_bytes and len(together) <= self.slots

    def pin(self, ref: AdapterRef) -> None:
        """Reserve room for the adapter from now on; once loaded, it stays resident until `unpin`.

        Raises AdapterError(code pins_too_large), with the numbers, if all pins together do not fit.
        """
        pins = {**self.pinned, ref.key: ref}
        if total(pins.values()) > self.budget_bytes or len(pins) > self.slots:
            raise AdapterError(
                "pins_too_large",
                f"Adapter {ref} takes {ref.nbytes:,} bytes and {len(self.pinned)} pinned ones take"
                f" {total(self.pinned.values()):,}; the memory for adapters is {self.budget_bytes:,} bytes in"
                f" {self.slots} places.",
                "Pin fewer, or give adapters more memory (EDGELORA_ADAPTER_MEMORY, in MiB).",
            )
        self.pinned = pins

    def unpin(self, ref: AdapterRef) -> None:
        """Allow the adapter to be evicted again. Does nothing if it is not pinned."""
        self.pinned = {key: pin for key, pin in self.pinned.items() if key != ref.key}

    def reserve(self, ref: AdapterRef) -> Reservation:
        """Reserve a slot and the bytes for an adapter to be loaded.

        Raises RuntimeError if it has a slot already or `can_hold` is False.
        """
        if ref.key in self._entries or not self.can_hold(ref):
            raise RuntimeError(f"no slot can be reserved for {ref}")
        evicted: list[int] = []
        while self.used_bytes + ref.nbytes > self.budget_bytes or len(self._entries) == self.slots:
            evicted.append(self._evict_oldest())
        slot = min(set(range(self.slots)) - {entry.slot for entry in self._entries.values()})
        self._entries[ref.key] = _Entry(ref, slot)
        return Reservation(slot, tuple(evicted))

    def loaded(self, ref: AdapterRef) -> None:
        """Mark a reserved adapter as resident, now that it is attached to its slot."""
        self._loading(ref).resident = True
        self.counter.loaded(ref)

    def drop(self, ref: AdapterRef) -> None:
        """Free the slot of a reserved adapter that could not be loaded. Requires that it has no leases."""
        if self._loading(ref).leases:
            raise RuntimeError(f"{ref} is held")
        del self._entries[ref.key]

    def lease(self, ref: AdapterRef) -> None:
        """Take one lease on an adapter that has a slot, which protects it from eviction until `release`."""
        entry, now = self._entries[ref.key], self._clock()
        entry.leases += 1
        entry.requests += 1
        entry.last_used = now
        self._entries.move_to_end(ref.key)
        self.counter.used(ref, hit=entry.resident, now=now)

    def release(self, ref: AdapterRef) -> None:
        entry = self._entries[ref.key]
        if not entry.leases:
            raise RuntimeError(f"{ref} is not held")
        entry.leases -= 1
        entry.last_used = self._clock()
        self._entries.move_to_end(ref.key)
        self.counter.released(ref, now=entry.last_used)

    def snapshot(self) -> tuple[PoolEntry, ...]:
        """Return the adapters that have a slot, least recently used first."""
        pinned = self.pinned
        return tuple(
            PoolEntry(e.ref, e.slot, e.resident, e.leases, k in pinned, e.requests, e.last_used)
            for k, e in self._entries.items()
        )

    def check_integrity(self) -> None:
        """Recount slots and bytes. Raises RuntimeError if they are inconsistent."""
        taken = [entry.slot for entry in self._entries.values()]
        if len(set(taken)) != len(taken) or not set(taken) <= set(range(self.slots)):
            raise RuntimeError(f"slots {taken} of {self.slots}")
        if max(self.used_bytes, total(self.pinned.values())) > self.budget_bytes or len(self.pinned) > self.slots:
            raise RuntimeError(f"{self.used_bytes} bytes of {self.budget_bytes}")
        if any(key != entry.ref.key or entry.leases < 0 for key, entry in self._entries.items()):
            raise RuntimeError("an entry is not what its key says")

    def _evictable(self, entry: _Entry) -> bool:
        return entry.resident and not entry.leases and entry.ref.key not in self.pinned

    def _evict_oldest(self) -> int:
        entry = next(entry for entry in self._entries.values() if self._evictable(entry))
        del self._entries[entry.ref.key]
        self.counter.evicted(entry.ref)
        return entry.slot

    def _loading(self, ref: AdapterRef) -> _Entry:
        entry = self._entries[ref.key]
        if entry.resident:
            raise RuntimeError(f"{ref} is resident already")
        return entry
