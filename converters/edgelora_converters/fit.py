"""What every writer does with a pair before any format: check it against the base, fold its scale. Owns no file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora import LoraAdapter, LoraPair, Target
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.modules import EMBEDDING, LINEAR_MODULES, OUTER_MODULES
from edgelora_models.shape import LlamaShape

Part = Literal["dora", "lora_bias", "embedding_lora", "head_lora"]
"""What an adapter may have beyond factors of a layer's linear modules."""

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
    if pair.rank >= 1 and _has_place(target, shape) and (pair.a.shape, pair.b.shape) == wanted:
        return
    factors = f"lora_A {list(pair.a.shape)} and lora_B {list(pair.b.shape)}"
    what = f"The base has no place for {target.hf_path} with {factors}."
    remedy = "Convert it for the base it was trained on."
    raise AdapterIncompatible("shape_mismatch", what, remedy, param=target.hf_path)


def _has_place(target: Target, shape: LlamaShape) -> bool:
    if target.layer is None:
        return target.module in OUTER_MODULES
    return target.module in LINEAR_MODULES and target.layer in range(shape.layers)


def check_parts(adapter: LoraAdapter, *, to: str, carried: Collection[Part]) -> None:
    """Raise AdapterUnsupported, with the part as its code, for the first part that the format `to` does not carry."""
    for target, pair in adapter.pairs.items():
        for part in _parts(target, pair):
            if part not in carried:
                raise _not_carried(target, part, to)


def _parts(target: Target, pair: LoraPair) -> Iterator[Part]:
    if target.layer is None:
        yield "embedding_lora" if target.module == EMBEDDING else "head_lora"
    if pair.magnitude is not None:
        yield "dora"
    if pair.bias is not None:
        yield "lora_bias"


def _not_carried(target: Target, part: Part, to: str) -> AdapterUnsupported:
    what = {
        "dora": "is a DoRA adapter's, whose change is not of low rank",
        "lora_bias": "has a bias of lora_B",
        "embedding_lora": "is the embedding",
        "head_lora": "is the output head",
    }[part]
    remedy = "Run it with edgelora, or merge it into its base (edgelora merge)."
    return AdapterUnsupported(part, f"{target.hf_path} {what}, which {to} cannot carry.", remedy, param=target.hf_path)


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
