"""The limits on number and size of the adapters in memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgelora.core.errors import AdapterError
from edgelora.core.request import AdapterRef

Key = tuple[str, str]
"""A version's digest and the path of its conversion: `AdapterRef.key`."""
NO_PINS: Mapping[Key, AdapterRef] = {}


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """The number of slots and the byte budget for adapters in memory."""

    budget_bytes: int
    slots: int

    def check(self, refs: Iterable[AdapterRef], *, pinned: Mapping[Key, AdapterRef] = NO_PINS) -> None:
        """Check that the adapters can be in memory together, beside the pinned ones, once everything else is evicted.

        Raises AdapterError(code adapter_too_large) if they exceed the budget, or AdapterError(code too_many_adapters)
        if there are more of them than slots.
        """
        requested = {ref.key: ref for ref in refs}
        pins = [ref for key, ref in pinned.items() if key not in requested]
        named, nbytes, pinned_bytes = ", ".join(map(str, requested.values())), total(requested.values()), total(pins)
        if nbytes + pinned_bytes > self.budget_bytes:
            beside = f", and pinned ones take {pinned_bytes:,} of it" if pinned_bytes else ""
            raise AdapterError(
                "adapter_too_large",
                f"Adapter {named} takes {nbytes:,} bytes; the memory for adapters is {self.budget_bytes:,} bytes"
                f"{beside}.",
                "Give adapters more memory (EDGELORA_ADAPTER_MEMORY, in MiB)"
                + (", or pin fewer." if pinned_bytes else ", or use an adapter of lower rank."),
            )
        if len(requested) + len(pins) > self.slots:
            beside = f" beside {len(pins)} pinned ones" if pins else ""
            message = f"{len(requested)} adapters are wanted at once ({named}){beside}; {self.slots} can be in memory."
            raise AdapterError("too_many_adapters", message, "Name fewer adapters.")


def total(refs: Iterable[AdapterRef]) -> int:
    """Return the total bytes of the adapters."""
    return sum(ref.nbytes for ref in refs)
