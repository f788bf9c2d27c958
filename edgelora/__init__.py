"""One quantized Llama resident, many LoRA adapters hot-swapped by name. Importing this costs nothing heavy.

The public surface is `__all__`; every name is imported from its module on first use.
"""

from __future__ import annotations

from importlib import import_module

_HOMES = {
    "AdapterRef": "edgelora.core.request",
    "AdapterUse": "edgelora.core.request",
    "EdgeloraError": "edgelora.core.errors",
    "Library": "edgelora.store.library",
    "Message": "edgelora.text.prompt",
    "SamplingParams": "edgelora.core.sampling_params",
    "Service": "edgelora.runtime.service",
    "Settings": "edgelora.core.config",
    "__version__": "edgelora.core.version",
    "open_library": "edgelora.store.library",
    "read_settings": "edgelora.core.config",
}

__all__ = [
    "AdapterRef",
    "AdapterUse",
    "EdgeloraError",
    "Library",
    "Message",
    "SamplingParams",
    "Service",
    "Settings",
    "__version__",
    "open_library",
    "read_settings",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
