"""An adapter in memory: its factors as the kernel wants them, read and checked without the native library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
        return sum(pair.nbytes for pair in self.factors.values())


def load_lora(path: Path, shape: LlamaShape, *, widen: bool) -> LoadedLora:
    """Read a GGUF adapter for a base of `shape`. Raises AdapterError; touches nothing but the file.

    `widen` makes all factors float32, which numpy computes with; otherwise they stay as stored.
    """
    pairs = gguf_adapter.read(path, shape, widen=widen)
    return LoadedLora(
        path,
        {target: Factors(np.ascontiguousarray(a), np.ascontiguousarray(b.T)) for target, (a, b) in pairs.items()},
    )
