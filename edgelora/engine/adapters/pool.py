"""The adapters in memory: slots, leases, pins, and eviction. Counts only: loading, attaching and detaching
are the engine's work, told by what `reserve` returns. No I/O, no threads.
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
    """False while it is being loaded."""
    leases: int
    """Live requests that hold it."""
    pinned: bool = False
    """Whether it stays though nobody holds it."""
    requests: int = 0
    """Number of requests that used the adapter since it was loaded."""
    last_used: float = 0.0
    """By the pool's clock; 0.0: nobody held it yet."""


@dataclass(frozen=True, slots=True)
class Reservation:
    slot: int
    evicted: tuple[int, ...]
    """Slots to detach before this one is attached; may hold `slot` itself."""


@dataclass(slots=True)
class _Entry:
    ref: AdapterRef
    slot: int
    resident: bool = False
    leases: int = 0
    requests: int = 0
    last_used: float = 0.0


class Pool:
    """`slots` adapters in at most `budget_bytes`. The least recently used one without lease or pin is evicted first."""

    def __init__(self, budget_bytes: int, slots: int, *, clock: Callable[[], float] = float) -> None:
        """`clock`: Unix seconds, only to tell when what was used; the default is always at 0."""
        self.limits = AdapterLimits(budget_bytes, slots)
        self.counter = AdapterCounter()
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        """Least recently used first."""
        self.pinned: Mapping[Key, AdapterRef] = {}
        """Their room is set aside, in memory or not. Replaced, never changed: any thread may read it."""

    @property
    def budget_bytes(self) -> int:
        """Bytes that adapters may take together."""
        return self.limits.budget_bytes

    @property
    def slots(self) -> int:
        """Adapters that may be in memory at once."""
        return self.limits.slots

    @property
    def used_bytes(self) -> int:
        return total(entry.ref for entry in self._entries.values())

    def check_fits(self, *refs: AdapterRef) -> None:
        """Raises AdapterError for adapters that could never be in memory together, however long they wait: code
        adapter_too_large, or too_many_adapters for more than there are slots.
        """
        self.limits.check(refs, pinned=self.pinned)

    def slot(self, ref: AdapterRef) -> int | None:
        """Its slot, resident or being loaded; None where it is neither."""
        entry = self._entries.get(ref.key)
        return entry.slot if entry else None

    def resident(self, ref: AdapterRef) -> bool:
        entry = self._entries.get(ref.key)
        return entry is not None and entry.resident

    def held(self, ref: AdapterRef) -> int:
        """Return the slot of an adapter that somebody holds."""
        return self._entries[ref.key].slot

    def can_hold(self, *refs: AdapterRef) -> bool:
        """Whether there would be room for all these at once now, those that are there staying, by evicting others that
        nobody holds. Raises as `check_fits` does.
        """
        self.check_fits(*refs)
        requested = {ref.key: ref for ref in refs}
        stay = {key: entry.ref for key, entry in self._entries.items() if not self._evictable(entry)}
        together = {**requested, **stay, **self.pinned}.values()
        return total(together) <= self.budget_bytes and len(together) <= self.slots

    def pin(self, ref: AdapterRef) -> None:
        """Set its room aside from now on: once in memory it stays until `unpin`.

        Raises AdapterError(code pins_too_large), with the numbers, where all pins together have not the room.
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
        """It may be evicted again. Safe for one that is not pinned."""
        self.pinned = {key: pin for key, pin in self.pinned.items() if key != ref.key}

    def reserve(self, ref: AdapterRef) -> Reservation:
        """Take a slot and the bytes for an adapter about to be loaded. Only where it has no slot and `can_hold`."""
        if ref.key in self._entries or not self.can_hold(ref):
            raise RuntimeError(f"no slot can be reserved for {ref}")
        evicted: list[int] = []
        while self.used_bytes + ref.nbytes > self.budget_bytes or len(self._entries) == self.slots:
            evicted.append(self._evict_oldest())
        slot = min(set(range(self.slots)) - {entry.slot for entry in self._entries.values()})
        self._entries[ref.key] = _Entry(ref, slot)
        return Reservation(slot, tuple(evicted))

    def loaded(self, ref: AdapterRef) -> None:
        """The reserved adapter is attached to its slot."""
        self._loading(ref).resident = True
        self.counter.loaded(ref)

    def drop(self, ref: AdapterRef) -> None:
        """The reserved adapter could not be loaded: its slot is free again. Only without leases."""
        if self._loading(ref).leases:
            raise RuntimeError(f"{ref} is held")
        del self._entries[ref.key]

    def lease(self, ref: AdapterRef) -> None:
        """Hold an adapter that has a slot: it will not be evicted until `release`. One call, one lease."""
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
        """Return what is in memory, least recently used first."""
        pinned = self.pinned
        return tuple(
            PoolEntry(e.ref, e.slot, e.resident, e.leases, k in pinned, e.requests, e.last_used)
            for k, e in self._entries.items()
        )

    def check_integrity(self) -> None:
        """Recount slots and bytes. Raises RuntimeError where they do not add up."""
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
