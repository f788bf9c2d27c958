"""How a base is opened: settings, and what was measured, become one setup; and the backend that has it.

Where the settings say nothing, what `edgelora tune` measured counts. Where nothing was measured: a thread for every
physical core, and the base's weights as they stand in the file on x86-64, where llama.cpp computes K-quants from there
no slower than from its own layout, prompts faster (benchmarks/start.py); elsewhere in llama.cpp's own layout,
which has the fast code there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.backends.mlx.limits import apply, limits, working_set
from edgelora.backends.setup import MAX_RESIDENT, STEP_TOKENS, Setup
from edgelora.core.machine import memory
from edgelora.runtime.opening.memory_check import MemoryNeed, check_fits

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgelora.backends.base import Backend
    from edgelora.core.config import Settings
    from edgelora.core.progress import Progress
    from edgelora.core.tokenizer import Tokenizer
    from edgelora.store.bases.record import BaseRecord


def open_backend(record: BaseRecord, setup: Setup, settings: Settings, progress: Progress | None) -> Backend:
    """Load a base into the backend that runs its format. Raises UsageError (a KV type it cannot have), BaseError (one
    that does not fit into memory among others), BackendError.
    """
    need = MemoryNeed.of(record, setup)
    metal = working_set() if setup.mlx else None
    if settings.memory_check == "on":
        check_fits(record.name, need, memory(), working_set=metal)
    label = f"Loading {record.name}"
    loading = None if progress is None else lambda part: progress(label, round(part * 100), 100)
    if record.format == "mlx":
        if metal is not None:
            apply(limits(need=need.kept, adapters=settings.adapter_budget_bytes, working_set=metal))
        return _open_mlx(record, setup, settings, loading)
    from edgelora.backends.llama_cpp.backend import LlamaCppBackend

    return LlamaCppBackend.open(
        record.path,
        shape=record.identity.fingerprint.shape,
        settings=BackendOptions(
            context_length=setup.context_length,
            max_sequences=settings.max_sequences,
            max_step_tokens=STEP_TOKENS,
            max_slots=MAX_RESIDENT,
            threads=setup.threads,
            batch_threads=setup.batch_threads,
            weights=setup.weights,
            kv_type=setup.kv_type,
            kv_cells=setup.kv_tokens,
            max_outputs=_max_outputs(settings),
            kernel=settings.kernel,
        ),
        progress=loading,
    )


def open_vocabulary(record: BaseRecord) -> Tokenizer:
    """The vocabulary of a base and nothing else of it: no weights are read. Raises BaseError, BackendError."""
    shape = record.identity.fingerprint.shape
    if record.format == "mlx":
        from edgelora.backends.mlx.tokenizer import FolderTokenizer

        return FolderTokenizer(record.path, shape.vocab)
    from edgelora.backends.llama_cpp.model import Model
    from edgelora.backends.llama_cpp.tokenizer import LlamaTokenizer

    return LlamaTokenizer(Model.load_vocabulary(record.path, shape=shape))


def _open_mlx(
    record: BaseRecord, setup: Setup, settings: Settings, progress: Callable[[float], None] | None
) -> Backend:
    from edgelora.backends.mlx import MlxOptions, open_mlx

    options = MlxOptions(
        context_length=setup.context_length,
        max_sequences=settings.max_sequences,
        max_step_tokens=STEP_TOKENS,
        max_slots=MAX_RESIDENT,
        kv_cells=setup.kv_tokens,
        max_outputs=_max_outputs(settings),
    )
    return open_mlx(record.path, shape=record.identity.fingerprint.shape, options=options, progress=progress)


def _max_outputs(settings: Settings) -> int:
    from edgelora.engine.speculative.draft_budget import DRAFT_ROWS

    return settings.max_sequences + (DRAFT_ROWS if settings.speculate == "auto" else 0)
