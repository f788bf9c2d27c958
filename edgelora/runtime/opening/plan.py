"""What a base is opened with: settings and measurements become one setup.

Where the settings say nothing, the result of `edgelora tune` counts. Where nothing was measured: one thread for every
physical core, and the base's weights as they stand in the file on x86-64, where llama.cpp computes K-quants from there
no slower than from its own layout and prompts faster (benchmarks/latency/start.py); elsewhere in llama.cpp's own
layout, which has the fast code there.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from edgelora.backends.registry import spec_for
from edgelora.backends.setup import Setup
from edgelora.backends.spec import BaseFiles
from edgelora.core.machine import usable_cores
from edgelora.runtime.tuning.record import Tunings

if TYPE_CHECKING:
    from edgelora.core.config import Settings, Weights
    from edgelora.store.bases.record import BaseRecord


def base_files(record: BaseRecord) -> BaseFiles:
    """Return an installed base as backends see it."""
    return BaseFiles(record.name, record.path, record.identity.fingerprint.shape, record.nbytes)


def plan_setup(record: BaseRecord, settings: Settings) -> Setup:
    """Return what `settings`, and what was measured, make of this base on this machine.

    Raises UsageError(kv_type) for a KV type that the backend does not have.
    """
    backend, base = spec_for(record.format), base_files(record)
    kv_type = backend.kv_type(base, settings)
    tuning = Tunings(settings.directories).current(record)
    cores = usable_cores()
    single, many = (cores, cores) if tuning is None else (tuning.threads, tuning.batch_threads)
    weights = settings.weights
    if weights == "auto":
        weights = (tuning.weights if tuning is not None else None) or default_weights()
    return Setup(
        backend=backend.display_name,
        tunable=backend.tunable,
        threads=settings.threads or single,
        batch_threads=settings.threads or many,
        weights=weights,
        kv_type=kv_type,
        kv_native=backend.kv_native,
        context_length=min(settings.context_length, record.identity.context_length),
        kv_token_bytes=backend.kv_token_bytes(base, kv_type),
        measured=tuning is not None and (settings.threads is None or settings.weights == "auto"),
    )


def default_weights() -> Weights:
    """Return how weights are held where nothing was measured; the module's docstring says why."""
    return "mapped" if platform.machine().lower() in {"x86_64", "amd64"} else "repacked"
