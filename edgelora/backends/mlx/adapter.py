"""An adapter in memory, from either conversion: mlx-lm's folder, or edgelora's own file where a folder cannot say it.

Owns the reading and the checks; computes nothing with mlx, so that any thread may load. Factors are float32 as mlx-lm
computes with, in Hugging Face row order, each at its own rank: the zeros that a folder pads with are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from edgelora.backends.mlx.matrix import Array
from edgelora_converters import mapped_adapter, mlx
from edgelora_converters.dtypes import widened
from edgelora_converters.lora import Target
from edgelora_converters.mapped_adapter import MappedPair
from edgelora_converters.rows import deinterleave
from edgelora_models.modules import EMBEDDING
from edgelora_models.shape import LlamaShape

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """One module's change: y0 to g * (y0 + x A B) + bias, the scale multiplied into B and bias."""

    a: Array
    """[in, rank]; of the embedding [vocab, rank]"""
    b: Array
    """[rank, out]"""
    row_scale: Array = None
    """[out]: DoRA's g, where it is known from the conversion."""
    bias: Array = None
    """[out]"""
    magnitude: Array = None
    """[out]: DoRA's m, where g is still to be found from the base's rows."""

    @property
    def plain(self) -> bool:
        """LoRA's two factors and no more."""
        return self.row_scale is None and self.bias is None

    @property
    def nbytes(self) -> int:
        parts = (self.a, self.b, self.row_scale, self.bias, self.magnitude)
        return sum(int(part.nbytes) for part in parts if part is not None)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedMlx:
    path: Path
    factors: Mapping[Target, Factors]

    @property
    def nbytes(self) -> int:
        return sum(factors.nbytes for factors in self.factors.values())


def load_adapter(path: Path, shape: LlamaShape) -> LoadedMlx:
    """Read a conversion for a base of `shape`: a folder, or a file in edgelora's own layout. Any thread.

    Raises AdapterError, StorageError.
    """
    if path.is_dir():
        with mlx.opened(path, shape) as modules:
            return LoadedMlx(path, {target: _of_folder(stored) for target, stored in modules.items()})
    adapter = mapped_adapter.read(path, shape)
    return LoadedMlx(path, {target: _of_file(target, pair, shape) for target, pair in adapter.pairs.items()})


def _of_folder(stored: mlx.Stored) -> Factors:
    used = np.flatnonzero(stored.a.any(axis=0) & stored.b.any(axis=1))
    rank = int(used[-1]) + 1 if used.size else 1
    return Factors(_array(stored.a[:, :rank]), _array(stored.b[:rank]), magnitude=_array(stored.m))


def _of_file(target: Target, pair: MappedPair, shape: LlamaShape) -> Factors:
    heads = target.module.rotary_heads(shape)
    a = widened(pair.a)
    scale = np.float64(pair.scale)

    def rows(values: NDArray[Any] | None, *, times: np.float64) -> Values | None:
        if values is None:
            return None
        exact = (values.astype(np.float64) * times).astype(np.float32)
        return deinterleave(exact[:, None], heads)[:, 0]

    b = (deinterleave(widened(pair.b).T, heads).T.astype(np.float64) * scale).astype(np.float32)
    return Factors(
        _array(a if target.module == EMBEDDING else a.T),
        _array(b),
        row_scale=_array(rows(pair.row_scale, times=np.float64(1))),
        bias=_array(rows(pair.bias, times=scale)),
    )


def _array(values: Values | None) -> Array:
    """Made of memory, not computed: no stream of this thread's is in it."""
    return None if values is None else mx.array(np.ascontiguousarray(values))
