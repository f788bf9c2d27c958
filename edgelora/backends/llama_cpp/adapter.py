"""An adapter in memory: its factors as the kernel wants them, mapped or read, checked without the native library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.kernels.reference import Factors
from edgelora_converters.gguf import adapter_reader as gguf_adapter_reader
from edgelora_converters.lora.adapter import Target
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_converters.mapped.mapping import touch
from edgelora_converters.mapped.writer import SUFFIX
from edgelora_converters.tensors.dtypes import widened
from edgelora_models.modules import EMBEDDING
from edgelora_models.shape import LlamaShape


@dataclass(frozen=True, slots=True, eq=False)
class LoadedLora:
    """Factors of every targeted module, in GGUF row order; and the file they came from.

    Those of a mapped file are views of the mapping, which lives as long as anyone holds one of them.
    """

    path: Path
    factors: Mapping[Target, Factors]

    @property
    def nbytes(self) -> int:
        return sum(pair.nbytes for pair in self.factors.values())


def load_lora(path: Path, shape: LlamaShape, *, widen: bool) -> LoadedLora:
    """Map an adapter in edgelora's layout, or read a GGUF one, for a base of `shape`.

    `widen` makes all factors float32, which numpy computes with; otherwise they stay as stored. What is mapped is
    brought in here, so that no step waits for a page. Raises AdapterError, StorageError.
    """
    if path.suffix == SUFFIX:
        return _mapped(path, shape, widen=widen)
    pairs = gguf_adapter_reader.read(path, shape, widen=widen)
    return LoadedLora(path, {target: _factors(target, a, b) for target, (a, b) in pairs.items()})


def _factors(target: Target, a: NDArray[Any], b: NDArray[Any]) -> Factors:
    """Return the pair for GGUF's a [rank, in] and b [out, rank]."""
    lookup = target.module == EMBEDDING
    return Factors(np.ascontiguousarray(a.T if lookup else a), np.ascontiguousarray(b.T), lookup=lookup)


def _mapped(path: Path, shape: LlamaShape, *, widen: bool) -> LoadedLora:
    adapter = mapped_reader.read(path, shape)
    touch(adapter.data)
    keep: Callable[[NDArray[Any]], NDArray[Any]] = widened if widen else lambda values: values
    return LoadedLora(
        path,
        {
            target: Factors(
                keep(pair.a),
                keep(pair.b),
                scale=pair.row_scale,
                bias=pair.bias if pair.bias is None else np.float32(pair.scale) * pair.bias,
                multiplier=pair.scale,
                lookup=target.module == EMBEDDING,
            )
            for target, pair in adapter.pairs.items()
        },
    )
