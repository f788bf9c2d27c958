"""The built-in base in MLX's form: converted when it is first asked for, and a base like any other from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgelora.core.errors import BaseError, NotFound
from edgelora.core.files import locked
from edgelora.store.bases.record import BUILTIN, BaseRecord
from edgelora_models.storage import discard, make_folder

if TYPE_CHECKING:
    from pathlib import Path

    from edgelora.core.progress import Progress
    from edgelora.store.bases.registry import Bases

TYPE = "f32"
"""Type of its weights: 18 MB, and nothing is rounded."""
TIMEOUT = 600.0
"""Seconds to wait for another process that is converting it."""


def ensure_mlx(bases: Bases, progress: Progress | None = None) -> BaseRecord:
    """Return its record, converting it first where needed; `edgelora base rm` removes it like a download. Raises
    BaseError (mlx_missing), StorageError, Busy."""
    from edgelora_models import builtin

    name = f"{builtin.BASE_NAME}-mlx"
    record = _installed(bases, name)
    if record is not None:
        return record
    with locked(bases.directories.data / "locks" / "builtin-mlx.lock", timeout=TIMEOUT, busy=f"{name} is being made."):
        return _installed(bases, name) or _make(bases, name, builtin.base_hf(), progress)


def _installed(bases: Bases, name: str) -> BaseRecord | None:
    try:
        return bases.get(name).check()
    except (NotFound, BaseError):
        return None


def _make(bases: Bases, name: str, source: Path, progress: Progress | None) -> BaseRecord:
    from edgelora_converters.base.convert import convert_base

    folder = make_folder(bases.downloads) / name
    discard(folder)
    convert_base(source, folder, to="mlx", kind=TYPE, progress=progress)
    return bases.add(folder, name, origin=BUILTIN)
