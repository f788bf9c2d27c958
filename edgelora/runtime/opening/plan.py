"""Plan."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from edgelora.backends.llama_cpp.kv_types import token_bytes
from edgelora.backends.setup import Setup
from edgelora.core.config import KvType, Weights
from edgelora.core.errors import UsageError
from edgelora.core.machine import usable_cores
from edgelora.runtime.tuning.record import Tunings
from edgelora_models.modules import LINEAR_MODULES

if TYPE_CHECKING:
    from edgelora.core.config import Settings
    from edgelora.store.bases.record import BaseRecord


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
        message = f"KV in {settings.kv_type} is llama.cpp's; MLX keeps it in the base's own type."
        remedy = "Leave out --kv-type (EDGELORA_KV_TYPE), or take a GGUF base (--backend llama.cpp)."
        raise UsageError("kv_type", message, remedy, param="kv_type")
    shape = record.identity.fingerprint.shape
    per_layer = sum(module.in_features(shape) * module.out_features(shape) for module in LINEAR_MODULES)
    weights = shape.layers * per_layer + shape.vocab * shape.hidden * (1 if shape.tied else 2)
    return "f32" if record.nbytes >= 4 * weights else "f16"


def default_weights() -> Weights:
    """Where nothing was measured; see the file's docstring."""
    return "mapped" if platform.machine().lower() in {"x86_64", "amd64"} else "repacked"
