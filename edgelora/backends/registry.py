"""The backends there are: one line each. Specs are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import cast

from edgelora.backends.spec import BackendSpec, BaseFormat

SPECS = {
    "llama.cpp": "edgelora.backends.llama_cpp.spec",
    "mlx": "edgelora.backends.mlx.spec",
}
"""By the name of a backend, the module that has its `SPEC`."""


def spec(name: str) -> BackendSpec:
    """Return the backend of that name. Raises KeyError."""
    return cast(BackendSpec, import_module(SPECS[name]).SPEC)


def specs() -> Iterator[BackendSpec]:
    """Yield every backend."""
    return map(spec, SPECS)


def spec_for(base_format: BaseFormat) -> BackendSpec:
    """Return the backend that opens bases of a format."""
    return next(backend for backend in specs() if backend.base_format == base_format)
