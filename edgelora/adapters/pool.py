"""What adapters are in memory: slots, leases, and who has to go. Counts only: loading, attaching and detaching are the
engine's work, told by what `reserve` returns. No I/O, no threads.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from edgelora.core import AdapterRef
from edgelora.errors import AdapterError

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

    @property
    def evictable(self) -> bool:
        return self.resident and not self.leases


class Pool:
    """`slots` adapters in at most `budget_bytes`. The least recently used one without a lease is evicted first."""

    def __init__(self, budget_bytes: int, slots: int) -> None:
        self.budget_bytes = budget_bytes
        self.slots = slots
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        """Least recently used first."""

    @property
    def used_bytes(self) -> int:
        return sum(entry.ref.nbytes for entry in self._entries.values())

    def check_fits(self, ref: AdapterRef) -> None:
        """Raises AdapterError(code adapter_too_large) for one that could never be loaded, however long it waits."""
        if ref.nbytes > self.budget_bytes or not self.slots:
            raise AdapterError(
                "adapter_too_large",
                f"Adapter {ref} takes {ref.nbytes:,} bytes; the memory for adapters is {self.budget_bytes:,} bytes.",
                "Give adapters more memory (EDGELORA_ADAPTER_MEMORY, in MiB), or use an adapter of lower rank.",
            )

    def slot(self, ref: AdapterRef) -> int | None:
        """Its slot, resident or being loaded; None where it is neither."""
        entry = self._entries.get(ref.key)
        return entry.slot if entry else None

    def resident(self, ref: AdapterRef) -> bool:
        entry = self._entries.get(ref.key)
        return entry is not None and entry.resident

    def can_reserve(self, ref: AdapterRef) -> bool:
        """Whether `reserve` would find room now, by evicting what nobody holds. Raises as `check_fits` does."""
        self.check_fits(ref)
        evictable = [entry for entry in self._entries.values() if entry.evictable]
        kept = self.used_bytes - sum(entry.ref.nbytes for entry in evictable)
        return kept + ref.nbytes <= self.budget_bytes and len(self._entries) - len(evictable) < self.slots

    def reserve(self, ref: AdapterRef) -> Reservation:
        """Take a slot and the bytes for an adapter about to be loaded. Only where it has no slot and `can_reserve`."""
        if ref.key in self._entries or not self.can_reserve(ref):
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

    def drop(self, ref: AdapterRef) -> None:
        """The reserved adapter could not be loaded: its slot is free again. Only without leases."""
        if self._loading(ref).leases:
            raise RuntimeError(f"{ref} is held")
        del self._entries[ref.key]

    def lease(self, ref: AdapterRef) -> None:
        """Hold an adapter that has a slot: it will not be evicted until `release`. One call, one lease."""
        self._entries[ref.key].leases += 1
        self._entries.move_to_end(ref.key)

    def release(self, ref: AdapterRef) -> None:
        entry = self._entries[ref.key]
        if not entry.leases:
            raise RuntimeError(f"{ref} is not held")
        entry.leases -= 1
        self._entries.move_to_end(ref.key)

    def snapshot(self) -> tuple[PoolEntry, ...]:
        """What is in memory, least recently used first."""
        return tuple(PoolEntry(e.ref, e.slot, e.resident, e.leases) for e in self._entries.values())

    def check_integrity(self) -> None:
        """Recount slots and bytes. Raises RuntimeError where they do not add up."""
        taken = [entry.slot for entry in self._entries.values()]
        if len(set(taken)) != len(taken) or not set(taken) <= set(range(self.slots)):
            raise RuntimeError(f"slots {taken} of {self.slots}")
        if self.used_bytes > self.budget_bytes:
            raise RuntimeError(f"{self.used_bytes} bytes of {self.budget_bytes}")
        if any(key != entry.ref.key or entry.leases < 0 for key, entry in self._entries.items()):
            raise RuntimeError("an entry is not what its key says")

    def _evict_oldest(self) -> int:
        entry = next(entry for entry in self._entries.values() if entry.evictable)
        del self._entries[entry.ref.key]
        return entry.slot

    def _loading(self, ref: AdapterRef) -> _Entry:
        entry = self._entries[ref.key]
        if entry.resident:
            raise RuntimeError(f"{ref} is resident already")
        return entry
