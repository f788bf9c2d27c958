"""What every writer does with a pair before any format: check it against the base, fold its scale. Owns no file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora import LoraAdapter, LoraPair, Target
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.shape import LlamaShape

_LARGEST = float(np.finfo(np.float32).max)


def check_fits(adapter: LoraAdapter, shape: LlamaShape) -> None:
    """Raise unless every pair has a place in a base of `shape`.

    AdapterCorrupt for an adapter without pairs, AdapterIncompatible for a layer or width the base does not have.
    """
    if not adapter.pairs:
        raise AdapterCorrupt("empty_adapter", "The adapter changes no module.", "Train it with target_modules set.")
    for target, pair in adapter.pairs.items():
        _check_pair(target, pair, shape)


def _check_pair(target: Target, pair: LoraPair, shape: LlamaShape) -> None:
    wanted = ((pair.rank, target.module.in_features(shape)), (target.module.out_features(shape), pair.rank))
    if pair.rank >= 1 and target.layer in range(shape.layers) and (pair.a.shape, pair.b.shape) == wanted:
        return
    factors = f"lora_A {list(pair.a.shape)} and lora_B {list(pair.b.shape)}"
    what = f"The base has no place for {target.hf_path} with {factors}."
    remedy = "Convert it for the base it was trained on."
    raise AdapterIncompatible("shape_mismatch", what, remedy, param=target.hf_path)


def folded_b(target: Target, pair: LoraPair) -> NDArray[np.float32]:
    """`pair.folded_b()`, [out_features, rank]; AdapterUnsupported where the scale takes it out of float32's range."""
    with np.errstate(over="ignore", invalid="ignore"):
        folded = pair.folded_b()
    if np.isfinite(folded).all():
        return folded
    raise _overflow(target, pair)


def check_scale(target: Target, pair: LoraPair) -> None:
    """Raise as `folded_b` does, for who keeps the scale apart: the two ways refuse the same adapters."""
    largest = max(float(pair.b.max()), -float(pair.b.min()))
    if not largest * abs(pair.scale) <= _LARGEST or not abs(pair.scale) <= _LARGEST:
        raise _overflow(target, pair)


def _overflow(target: Target, pair: LoraPair) -> AdapterUnsupported:
    what = f"lora_B of {target.hf_path} times its scale {pair.scale:g} is not finite in float32."
    remedy = "Train the adapter with a smaller lora_alpha."
    return AdapterUnsupported("scale_overflow", what, remedy, param=target.hf_path)
