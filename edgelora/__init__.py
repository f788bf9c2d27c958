"""One quantized Llama resident, many LoRA adapters hot-swapped by name. Importing this costs nothing heavy.

The public surface is `__all__`; every name is imported from its module on first use.
"""

from __future__ import annotations

from importlib import import_module

_HOMES = {
    "AdapterRef": "edgelora.core",
    "AdapterUse": "edgelora.core",
    "EdgeloraError": "edgelora.errors",
    "Library": "edgelora.library",
    "Message": "edgelora.prompt",
    "SamplingParams": "edgelora.core",
    "Service": "edgelora.service",
    "Settings": "edgelora.config",
    "open_library": "edgelora.library",
    "read_settings": "edgelora.config",
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
    if name == "__version__":
        return _version()
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("edgelora")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+source"
