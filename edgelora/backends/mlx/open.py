"""Loading an MLX base, where mlx is installed."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.backends.mlx.options import MlxOptions
from edgelora.core.errors import BackendError
from edgelora_models.shape import LlamaShape

if TYPE_CHECKING:
    from edgelora.backends.mlx.backend import MlxBackend


def installed() -> bool:
    """Return whether mlx is installed, without importing it."""
    return find_spec("mlx") is not None


def open_mlx(
    path: Path,
    *,
    shape: LlamaShape,
    options: MlxOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> MlxBackend:
    """Load the MLX base in the folder `path`. `progress` gets 0.0 to 1.0, and what it raises ends the load.

    Raises BackendError (`mlx_missing`) where mlx is not installed, BaseError where the base cannot be loaded.
    """
    if not installed():
        message = f"The MLX backend needs mlx, which is not installed.{_where()}"
        remedy = "Install it (pip install 'edgelora[mlx]'), or choose a GGUF base: edgelora base ls"
        raise BackendError("mlx_missing", message, remedy)
    from edgelora.backends.mlx.backend import MlxBackend

    return MlxBackend.open(path, shape=shape, options=options or MlxOptions(), progress=progress)


def _where() -> str:
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return ""
    return " It is meant for Apple Silicon, and this is another machine."
