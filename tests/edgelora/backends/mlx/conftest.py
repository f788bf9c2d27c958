"""A tiny base as a folder, and MLX backends over it: for tests of what this backend alone does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgelora.backends.mlx.open import open_mlx
from edgelora.backends.mlx.options import MlxOptions
from edgelora_models.shape import LlamaShape
from tests.support.lora import GQA
from tests.support.mlx import write_tiny_mlx

if TYPE_CHECKING:
    from edgelora.backends.mlx.backend import MlxBackend

SEED = 7
EXACT = MlxOptions(context_length=96, max_sequences=16, max_step_tokens=256, max_slots=8, kv_cells=2048, max_outputs=96)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GQA in float32."""
    return write_tiny_mlx(tmp_path_factory.mktemp("mlx") / "base", GQA, seed=SEED)


@contextmanager
def opened(base: Path, shape: LlamaShape = GQA, options: MlxOptions = EXACT) -> Iterator[MlxBackend]:
    backend = open_mlx(base, shape=shape, options=options)
    try:
        yield backend
    finally:
        backend.close()
