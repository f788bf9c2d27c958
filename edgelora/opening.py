"""How a base is opened: settings, and what was measured, become one setup; and the backend that has it.

Where the settings say nothing, what `edgelora tune` measured counts. Where nothing was measured: a thread for every
physical core, and the base's weights as they stand in the file on x86-64, where llama.cpp computes K-quants from there
no slower than from its own layout, prompts faster (benchmarks/start.py); elsewhere in llama.cpp's own layout,
which has the fast code there.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgelora.backends.llama_cpp.kv import KvType, token_bytes
from edgelora.backends.llama_cpp.options import BackendOptions, Weights
from edgelora.backends.mlx.limits import apply, limits, working_set
from edgelora.errors import UsageError
from edgelora.files import size_text
from edgelora.machine import memory, usable_cores
from edgelora.memory import Need, check_fits
from edgelora.tuning.record import Tunings
from edgelora_models.modules import LINEAR_MODULES

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgelora.backends.base import Backend, Vocabulary
    from edgelora.bases.record import BaseRecord
    from edgelora.config import Settings
    from edgelora.core import Progress

STEP_TOKENS = 512
"""Tokens in one forward pass at most: a long prompt is computed in pieces of this size."""
MAX_RESIDENT = 256
"""Adapters in memory at once at most; the byte budget ends it earlier for all but tiny ones."""
CONTEXTS = 2
"""KV is kept for so many whole contexts, over all sequences."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a base is opened with where something had to be chosen. MLX uses threads and weights its own way."""

    threads: int
    """Of a step of one token."""
    batch_threads: int
    """Of every other step."""
    weights: Weights
    kv_type: KvType
    """In MLX: what is as wide as the base's own type, in which it keeps KV."""
    context_length: int
    """Tokens of one sequence at most."""
    kv_token_bytes: int
    measured: bool
    """Whether `edgelora tune` chose any of it."""
    mlx: bool = False

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV over all sequences."""
        return CONTEXTS * self.context_length

    @property
    def kv_bytes(self) -> int:
        return self.kv_tokens * self.kv_token_bytes

    @property
    def kv_text(self) -> str:
        each, all_of_them = size_text(self.kv_token_bytes), size_text(self.kv_bytes)
        kind = "in the base's type" if self.mlx else self.kv_type
        return f"KV {kind}, {each} a token, {all_of_them} for {self.kv_tokens:,} tokens"

    @property
    def threads_text(self) -> str:
        one = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return one if self.threads == self.batch_threads else f"{one}, {self.batch_threads} for batches"

    def __str__(self) -> str:
        if self.mlx:
            return f"MLX; {self.kv_text}"
        how = ", measured" if self.measured else ""
        return f"{self.threads_text}, weights {self.weights}{how}; {self.kv_text}"


def plan_setup(record: BaseRecord, settings: Settings) -> Setup:
    """What `settings`, and what was measured, make of this base on this machine.

    Raises UsageError(kv_type) for a KV type that MLX has not.
    """
    mlx = record.format == "mlx"
    kv_type = _mlx_kv_type(record, settings) if mlx else settings.kv_type
    tuning = Tunings(settings.directories).current(record)
    cores = usable_cores()
    one, many = (cores, cores) if tuning is None else (tuning.threads, tuning.batch_threads)
    weights = settings.weights
    if weights == "auto":
        weights = (tuning.weights if tuning is not None else None) or default_weights()
    return Setup(
        threads=settings.threads or one,
        batch_threads=settings.threads or many,
        weights=weights,
        kv_type=kv_type,
        context_length=min(settings.context_length, record.identity.context_length),
        kv_token_bytes=token_bytes(kv_type, record.identity.fingerprint.shape),
        mlx=mlx,
        measured=tuning is not None and (settings.threads is None or settings.weights == "auto"),
    )


def _mlx_kv_type(record: BaseRecord, settings: Settings) -> KvType:
    """As wide as the activations: 32 bits where the weights are, which their bytes tell, else 16."""
    if settings.kv_type in ("q8_0", "q4_0"):
        what = f"KV in {settings.kv_type} is llama.cpp's; MLX keeps it in the base's own type."
        remedy = "Leave out --kv-type (EDGELORA_KV_TYPE), or take a GGUF base (--backend llama.cpp)."
        raise UsageError("kv_type", what, remedy, param="kv_type")
    shape = record.identity.fingerprint.shape
    per_layer = sum(module.in_features(shape) * module.out_features(shape) for module in LINEAR_MODULES)
    weights = shape.layers * per_layer + shape.vocab * shape.hidden * (1 if shape.tied else 2)
    return "f32" if record.nbytes >= 4 * weights else "f16"


def default_weights() -> Weights:
    """Where nothing was measured; see the file's docstring."""
    return "mapped" if platform.machine().lower() in {"x86_64", "amd64"} else "repacked"


def open_backend(record: BaseRecord, setup: Setup, settings: Settings, progress: Progress | None) -> Backend:
    """Load a base into the backend that runs its format. Raises UsageError (a KV type it cannot have), BaseError (one
    that does not fit into memory among others), BackendError.
    """
    need = Need.of(record, setup)
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


def open_vocabulary(record: BaseRecord) -> Vocabulary:
    """The vocabulary of a base and nothing else of it: no weights are read. Raises BaseError, BackendError."""
    shape = record.identity.fingerprint.shape
    if record.format == "mlx":
        from edgelora.backends.mlx.vocabulary import FolderVocabulary

        return FolderVocabulary(record.path, shape.vocab)
    from edgelora.backends.llama_cpp.model import Model
    from edgelora.backends.llama_cpp.vocabulary import LlamaVocabulary

    return LlamaVocabulary(Model.load_vocabulary(record.path, shape=shape))


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
    from edgelora.speculation import DRAFT_ROWS

    return settings.max_sequences + (DRAFT_ROWS if settings.speculate == "auto" else 0)
