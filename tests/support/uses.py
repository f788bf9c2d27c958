"""Short forms: what acts in a request or a chunk, where it is one adapter at full weight from the start, or none."""

from __future__ import annotations

from edgelora.backends.base import Applied
from edgelora.core.request import AdapterRef, AdapterUse


def uses(adapter: AdapterRef | None) -> tuple[AdapterUse, ...]:
    return () if adapter is None else (AdapterUse(adapter),)


def applied(slot: int | None) -> tuple[Applied, ...]:
    return () if slot is None else (Applied(slot),)
