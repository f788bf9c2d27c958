"""DoRA's row scales: g = m / ||W + scale * B A|| by row, from the magnitudes of an adapter and its base's weights.

    W' = diag(g) (W + scale * B A), so a module's output is g * (W x + scale * B A x)

The norms are of the base that is given: of the trained weights where those are exact, of the dequantized ones of a
quantized base, as PEFT takes them of the base it runs on. Source: DoRA (arXiv 2402.09353); PEFT 0.21.2, lora/dora.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.weights.base import BaseWeights, row_blocks
from edgelora_models.errors import AdapterUnsupported
from edgelora_models.modules import EMBEDDING


def is_dora(adapter: LoraAdapter) -> bool:
    """Return whether any module of an adapter has a magnitude."""
    return any(pair.magnitude is not None for pair in adapter.pairs.values())


def with_row_scales(
    adapter: LoraAdapter, weights: BaseWeights, *, progress: Callable[[int, int], None] | None = None
) -> LoraAdapter:
    """Return `adapter` with the row scale of every pair that has a magnitude; the same where none has.

    `progress` is called with modules done and in all. Raises AdapterUnsupported for DoRA of the embedding (PEFT scales
    its columns there) and where a norm is zero, BaseError and StorageError as BaseWeights does.
    """
    scaled = [target for target, pair in adapter.pairs.items() if pair.magnitude is not None]
    row_scales = {}
    for done, target in enumerate(scaled, start=1):
        row_scales[target] = _row_scale(target, adapter.pairs[target], weights)
        if progress is not None:
            progress(done, len(scaled))
    return replace(adapter, row_scales=row_scales) if scaled else adapter


def _row_scale(target: Target, pair: LoraPair, weights: BaseWeights) -> NDArray[np.float32]:
    if target.module == EMBEDDING or pair.magnitude is None:
        message = f"{target.hf_path} has DoRA on the embedding, whose columns it scales."
        raise AdapterUnsupported("dora_embedding", message, "Train DoRA on linear modules alone.", param=target.hf_path)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = (pair.magnitude.astype(np.float64) / row_norms(target, pair, weights)).astype(np.float32)
    if np.isfinite(scale).all():
        return scale
    row = int(np.flatnonzero(~np.isfinite(scale))[0])
    message = f"Row {row} of {target.hf_path} is zero with its delta, so DoRA cannot give it a length."
    raise AdapterUnsupported("dora_zero_row", message, "It was trained on another base.", param=target.hf_path)


def row_norms(target: Target, pair: LoraPair, weights: BaseWeights) -> NDArray[np.float64]:
    """||W + scale * B A|| by row, [out_features], in float64; the base's rows are read block by block."""
    name = f"{target.hf_path}.weight"
    if target.layer is None and weights.llama.tied:
        name = f"{EMBEDDING.hf}.weight"
    a, b = pair.a.astype(np.float64), pair.b.astype(np.float64) * pair.scale
    norms = np.empty(len(b))
    for start, rows in row_blocks(weights, name):
        sums = b[start : start + len(rows)] @ a
        sums += rows
        norms[start : start + len(rows)] = np.sqrt(np.einsum("ij,ij->i", sums, sums))
    return norms
