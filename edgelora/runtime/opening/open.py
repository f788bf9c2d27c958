"""Opening a base in the backend that runs its format, after the check that it fits into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgelora.backends.registry import spec_for
from edgelora.core.machine import memory
from edgelora.runtime.opening.memory_check import MemoryNeed, check_fits
from edgelora.runtime.opening.plan import base_files

if TYPE_CHECKING:
    from edgelora.backends.base import Backend
    from edgelora.backends.setup import Setup
    from edgelora.core.config import Settings
    from edgelora.core.progress import Progress
    from edgelora.core.tokenizer import Tokenizer
    from edgelora.store.bases.record import BaseRecord


def open_backend(record: BaseRecord, setup: Setup, settings: Settings, progress: Progress | None) -> Backend:
    """Load a base into the backend that runs its format.

    Raises BaseError (one that does not fit into memory among others), BackendError.
    """
    backend = spec_for(record.format)
    if settings.memory_check == "on":
        check_fits(record.name, MemoryNeed.of(record, setup), memory(), working_set=backend.working_set())
    label = f"Loading {record.name}"
    loading = None if progress is None else lambda part: progress(label, round(part * 100), 100)
    return backend.open(base_files(record), setup, settings, max_outputs=_max_outputs(settings), progress=loading)


def open_tokenizer(record: BaseRecord) -> Tokenizer:
    """Read only the tokenizer of a base, without weights. Raises BaseError or BackendError."""
    return spec_for(record.format).open_tokenizer(base_files(record))


def _max_outputs(settings: Settings) -> int:
    from edgelora.engine.speculative.draft_budget import DRAFT_ROWS

    return settings.max_sequences + (DRAFT_ROWS if settings.speculate == "auto" else 0)
