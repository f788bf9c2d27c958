"""An adapter in memory: its factors as the kernel wants them, read and checked without the native library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelora.kernels.reference import Factors
from edgelora_converters import gguf_adapter
from edgelora_converters.lora import Target
from edgelora_models.shape import LlamaShape


@dataclass(frozen=True, slots=True, eq=False)
class LoadedLora:
    """Factors of every targeted module, in GGUF row order, the whole scale folded in; and the file they came from."""

    path: Path
    factors: Mapping[Target, Factors]

    @property
    def nbytes(self) -> int:
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.factors.values())


def load_lora(path: Path, shape: LlamaShape) -> LoadedLora:
    """Read a GGUF adapter for a base of `shape`. Raises AdapterError; touches nothing but the file."""
    pairs = gguf_adapter.read(path, shape)
    return LoadedLora(path, {target: Factors(_rows(a), _rows(b.T)) for target, (a, b) in pairs.items()})


def _rows(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(matrix, dtype=np.float32)
