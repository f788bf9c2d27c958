"""The place of the MLX backend. Converted MLX adapters can be made already; computing with them is not built yet.

What it will be: linear modules holding stacked A [slots, in, rank] and B [slots, rank, out], `mx.gather_mm` with each
row's slot, so that one step mixes adapters as llama.cpp's does here. Until then opening it says plainly what to do.
"""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from edgelora.backends.base import Backend
from edgelora.errors import BackendError
from edgelora_models.shape import LlamaShape

_USE_LLAMA_CPP = "Choose a GGUF base instead, which runs every adapter edgelora can convert: edgelora base ls"


def open_mlx(path: Path, *, shape: LlamaShape) -> Backend:
    """Open the MLX base in the folder `path`. Raises BackendError in this version, always."""
    del path, shape
    if find_spec("mlx") is None or find_spec("mlx_lm") is None:
        _refuse("mlx_missing", f"The MLX backend needs mlx and mlx-lm, which are not installed.{_where()}")
    _refuse("mlx_not_built", "The MLX backend is not part of this version of edgelora; only conversion to MLX is.")


def _where() -> str:
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return ""
    return " It is meant for Apple Silicon, and this is another machine."


def _refuse(code: str, what: str) -> NoReturn:
    raise BackendError(code, what, _USE_LLAMA_CPP)
