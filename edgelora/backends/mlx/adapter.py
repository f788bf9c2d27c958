"""An adapter in memory, from either conversion: mlx-lm's folder, or edgelora's own file where a folder cannot say it.

Owns the reading and the checks. Any thread may load: what is computed, DoRA's row scales, is computed on its own stream
and finished before it is handed over. Factors are float32 as mlx-lm computes with, in Hugging Face row order, each at
its own rank: the zeros that a folder pads with are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from edgelora.backends.mlx.matrix import Array, Matrix
from edgelora.backends.mlx.model import Base
from edgelora_converters.lora.adapter import Target
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_converters.mapped.reader import MappedPair
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.tensors.dtypes import widened
from edgelora_converters.tensors.row_order import deinterleave
from edgelora_models.modules import EMBEDDING
from edgelora_models.shape import LlamaShape

Values = NDArray[np.float32]

_BLOCK = 1 << 24
"""Weights of a matrix that are widened at once, where the norms of its rows are wanted: 64 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """One module's change: y0 to g * (y0 + x A B) + bias, the scale multiplied into B and bias."""

    a: Array
    """[in, rank]; of the embedding [vocab, rank]"""
    b: Array
    """[rank, out]"""
    row_scale: Array = None
    """[out]: DoRA's g."""
    bias: Array = None
    """[out]"""

    @property
    def plain(self) -> bool:
        """True if the change is LoRA's two factors only."""
        return self.row_scale is None and self.bias is None

    @property
    def nbytes(self) -> int:
        parts = (self.a, self.b, self.row_scale, self.bias)
        return sum(int(part.nbytes) for part in parts if part is not None)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedMlx:
    path: Path
    factors: Mapping[Target, Factors]

    @property
    def nbytes(self) -> int:
        return sum(factors.nbytes for factors in self.factors.values())


def load_adapter(path: Path, base: Base) -> LoadedMlx:
    """Read a conversion for `base`: a folder, or a file in edgelora's own layout. Any thread.

    Raises AdapterError, StorageError.
    """
    if path.is_dir():
        with mlx_writer.opened(path, base.shape) as modules:
            return LoadedMlx(path, {t: _of_folder(stored, base.matrix(t)) for t, stored in modules.items()})
    adapter = mapped_reader.read(path, base.shape)
    return LoadedMlx(path, {t: _of_file(t, pair, base.shape) for t, pair in adapter.pairs.items()})


def _of_folder(stored: mlx_writer.Stored, matrix: Matrix) -> Factors:
    used = np.flatnonzero(stored.a.any(axis=0) & stored.b.any(axis=1))
    rank = int(used[-1]) + 1 if used.size else 1
    a, b = _array(stored.a[:, :rank]), _array(stored.b[:rank])
    if stored.m is None:
        return Factors(a, b)
    row_scale = _array(stored.m) / _row_norms(matrix, a, b)
    mx.eval(row_scale)
    return Factors(a, b, row_scale)


def _row_norms(matrix: Matrix, a: Array, b: Array) -> Array:
    """||W + (A B)^T|| by row, [out], as PEFT takes it: of the base it runs on, dequantized where that is packed."""
    step = max(1, _BLOCK // int(a.shape[0]))
    norms = []
    for start in range(0, matrix.rows, step):
        stop = min(start + step, matrix.rows)
        norms.append(mx.linalg.norm(matrix.widened(start, stop) + (a @ b[:, start:stop]).T, axis=1))
        mx.eval(norms[-1])
    return mx.concatenate(norms)


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
