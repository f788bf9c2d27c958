"""Whether a base fits into memory, decided before any of it is loaded. Pure but for `machine.memory`'s figures.

Weights that are mapped from their file may be dropped and read again by the system: they must fit into the machine at
all. What is held otherwise (repacked weights, MLX's, the KV) must fit into what is free now, and on Metal into what the
system gives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgelora.backends.registry import spec_for
from edgelora.core.errors import BaseError
from edgelora.runtime.opening.plan import base_files
from edgelora_models.storage import size_text

if TYPE_CHECKING:
    from edgelora.backends.setup import Setup
    from edgelora.core.machine import Memory
    from edgelora.store.bases.record import BaseRecord


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes a base takes once it is open, without adapters."""

    mapped: int
    """Bytes of weights that the system may drop and read again."""
    held: int
    """Bytes of weights that it may not drop."""
    kv: int
    """Maximum bytes of keys and values."""

    @classmethod
    def of(cls, record: BaseRecord, setup: Setup) -> MemoryNeed:
        """Return the need of `record`, opened with `setup`."""
        weights = spec_for(record.format).weights_need(base_files(record), setup)
        return cls(weights.mapped, weights.held, setup.kv_bytes)

    @property
    def kept(self) -> int:
        """Bytes that must always be in memory."""
        return self.held + self.kv

    @property
    def total(self) -> int:
        return self.mapped + self.held + self.kv

    def __str__(self) -> str:
        weights = f"weights {size_text(self.mapped + self.held)}"
        return f"{size_text(self.total)} ({weights}, KV {size_text(self.kv)})"


def check_fits(name: str, need: MemoryNeed, memory: Memory, *, working_set: int | None = None) -> None:
    """Raise BaseError(code base_too_large), with the numbers, if `need` does not fit.

    `working_set`: bytes that Metal lets one process use, if MLX runs on it.
    """
    if need.total > memory.total:
        message = f"The base {name} takes {need}, and this machine has {size_text(memory.total)}."
    elif need.kept > memory.available:
        free = f"{size_text(memory.available)} of {size_text(memory.total)} are free"
        message = f"The base {name} takes {need}, of which {size_text(need.kept)} must stay in memory, and {free}."
    elif working_set is not None and need.kept > working_set:
        message = f"The base {name} takes {need}, and Metal gives a process {size_text(working_set)}."
    else:
        return
    remedy = (
        "Close other programs, keep less context (--context), or choose a smaller base (edgelora base ls). "
        "EDGELORA_MEMORY_CHECK=off loads it all the same."
    )
    raise BaseError("base_too_large", message, remedy)
