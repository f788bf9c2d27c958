"""Making an adapter ready before it is asked for: its conversion in the store, its bytes in the page cache."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.core.files import CHUNK
from edgelora.core.request import AdapterRef
from edgelora_models.storage import storing

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.store.adapters.store import Store
    from edgelora.store.bases.record import BaseRecord


@dataclass(frozen=True, slots=True)
class Prewarmed:
    """The outcome for one adapter, with durations in seconds of wall time."""

    ref: AdapterRef
    number: int
    """Number of the version."""
    converted: bool
    """True if it had to be converted for this base."""
    convert_seconds: float
    read_seconds: float
    nbytes: int
    """Read: the size on disk."""


def warm(store: Store, spec: str, base: BaseRecord, *, progress: Progress | None = None) -> Prewarmed:
    """Convert `spec` for `base` where that was not done before, and read it once. Raises as `Store.ref` does."""
    _, version = store.resolve(spec)
    existing = {converted.path for converted in store.conversions(version)}
    began = time.perf_counter()
    ref = store.ref(spec, base, progress=progress)
    resolved, converted = time.perf_counter(), ref.path not in existing
    nbytes = _read_through(ref.path)
    return Prewarmed(
        ref=ref,
        number=version.number,
        converted=converted,
        convert_seconds=resolved - began if converted else 0.0,
        read_seconds=time.perf_counter() - resolved,
        nbytes=nbytes,
    )


def _read_through(path: Path) -> int:
    """Read a file, or all files in a folder, once, so that the next mapping finds them in memory. Returns the bytes."""
    buffer, nbytes = memoryview(bytearray(CHUNK)), 0
    with storing(path):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            with file.open("rb", buffering=0) as reader:
                while count := reader.readinto(buffer):
                    nbytes += count
    return nbytes
