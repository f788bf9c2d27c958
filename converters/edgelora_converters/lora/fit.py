"""Checks of every writer before any format: that a pair fits the base, and that its scale can be folded. Owns no
file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.modules import EMBEDDING, LINEAR_MODULES, OUTER_MODULES
from edgelora_models.shape import LlamaShape

Part = Literal["dora", "dora_embedding", "lora_bias", "embedding_lora", "head_lora"]
"""Parts that an adapter may have beyond the factors of a layer's linear modules."""
EVERY_PART: frozenset[Part] = frozenset(get_args(Part)) - {"dora_embedding"}
"""All that any format carries: PEFT's DoRA of an embedding scales its columns, which no runtime does."""

_LARGEST = float(np.finfo(np.float32).max)


def check_fits(adapter: LoraAdapter, shape: LlamaShape) -> None:
    """Raise unless every pair has a place in a base of `shape`.

    AdapterCorrupt for an adapter without pairs, AdapterIncompatible for a layer or width the base does not have.
    """
    if not adapter.pairs and not adapter.token_rows:
        raise AdapterCorrupt("empty_adapter", "The adapter changes no module.", "Train it with target_modules set.")
    for target, pair in adapter.pairs.items():
        _check_pair(target, pair, shape)


def _check_pair(target: Target, pair: LoraPair, shape: LlamaShape) -> None:
    expected = ((pair.rank, target.module.in_features(shape)), (target.module.out_features(shape), pair.rank))
    if pair.rank >= 1 and _has_place(target, shape) and (pair.a.shape, pair.b.shape) == expected:
        return
    factors = f"lora_A {list(pair.a.shape)} and lora_B {list(pair.b.shape)}"
    message = f"The base has no place for {target.hf_path} with {factors}."
    remedy = "Convert it for the base it was trained on."
    raise AdapterIncompatible("shape_mismatch", message, remedy, param=target.hf_path)


def _has_place(target: Target, shape: LlamaShape) -> bool:
    if target.layer is None:
        return target.module in OUTER_MODULES
    return target.module in LINEAR_MODULES and target.layer in range(shape.layers)


def check_untied(adapter: LoraAdapter, shape: LlamaShape, *, to: str) -> None:
    """Raise AdapterUnsupported where embedding or head change and the base has one matrix for both: in the format `to`
    a change of either is one of both, or ends the process that loads it."""
    outer = next((target for target in adapter.pairs if target.layer is None), None)
    if outer is None or not shape.tied:
        return
    message = (
        f"{outer.hf_path} is one matrix with the other end of this base, and {to} cannot change one of them alone."
    )
    remedy = "Run it with edgelora on a GGUF base, or merge it into its base with PEFT (merge_and_unload)."
    raise AdapterUnsupported("tied_base", message, remedy, param=outer.hf_path)


def check_parts(adapter: LoraAdapter, *, to: str, carried: Collection[Part]) -> None:
    """Raise AdapterUnsupported for the first part that the format `to` does not carry, with the part as its code; and
    for token rows, which no format carries before `completion` made pairs of them."""
    for target in adapter.token_rows:
        message = f"{target.hf_path} has trained tokens: what they replace are the base's own rows."
        raise AdapterUnsupported("base_needed", message, "Give the base itself (--base).", param=target.hf_path)
    for target, pair in adapter.pairs.items():
        for part in _parts(target, pair):
            if part not in carried:
                raise _not_carried(target, part, to)


def check_row_scales(adapter: LoraAdapter) -> None:
    """Raise AdapterUnsupported where DoRA's norms are not known: they take the base's weights (see `completion`)."""
    for target, pair in adapter.pairs.items():
        if pair.magnitude is not None and target not in adapter.row_scales:
            message = f"{target.hf_path} is a DoRA adapter's: the norms of its rows take the base's weights."
            raise AdapterUnsupported("base_needed", message, "Give the base itself (--base).", param=target.hf_path)


def _parts(target: Target, pair: LoraPair) -> Iterator[Part]:
    if pair.magnitude is not None:
        yield "dora_embedding" if target.module == EMBEDDING else "dora"
    if target.layer is None:
        yield "embedding_lora" if target.module == EMBEDDING else "head_lora"
    if pair.bias is not None:
        yield "lora_bias"


def _not_carried(target: Target, part: Part, to: str) -> AdapterUnsupported:
    message = {
        "dora": "is a DoRA adapter's, whose change is not of low rank",
        "dora_embedding": "is an embedding with DoRA",
        "lora_bias": "has a bias of lora_B",
        "embedding_lora": "is the embedding",
        "head_lora": "is the output head",
    }[part]
    remedy = "Run it with edgelora, or merge it into its base (edgelora merge)."
    return AdapterUnsupported(
        part, f"{target.hf_path} {message}, which {to} cannot carry.", remedy, param=target.hf_path
    )


def folded_b(target: Target, pair: LoraPair) -> NDArray[np.float32]:
    """Return `pair.folded_b()`, [out_features, rank]. Raises AdapterUnsupported where the scale takes it out of
    float32's range."""
    with np.errstate(over="ignore", invalid="ignore"):
        folded = pair.folded_b()
    if np.isfinite(folded).all():
        return folded
    raise _overflow(target, pair)


def folded_bias(target: Target, pair: LoraPair) -> NDArray[np.float32] | None:
    """scale * bias, multiplied in float64 and rounded once: [out_features]. Raises as `folded_b`."""
    if pair.bias is None:
        return None
    with np.errstate(over="ignore"):
        folded = (pair.bias.astype(np.float64) * pair.scale).astype(np.float32)
    if np.isfinite(folded).all():
        return folded
    raise _overflow(target, pair)


def check_scale(target: Target, pair: LoraPair) -> None:
    """Raise as `folded_b` and `folded_bias` do, for who keeps the scale apart: both ways refuse the same adapters."""
    parts = [pair.b] if pair.bias is None else [pair.b, pair.bias]
    largest = max(max(float(part.max()), -float(part.min())) for part in parts)
    if not largest * abs(pair.scale) <= _LARGEST or not abs(pair.scale) <= _LARGEST:
        raise _overflow(target, pair)


def _overflow(target: Target, pair: LoraPair) -> AdapterUnsupported:
    message = f"lora_B of {target.hf_path} times its scale {pair.scale:g} is not finite in float32."
    remedy = "Train the adapter with a smaller lora_alpha."
    return AdapterUnsupported("scale_overflow", message, remedy, param=target.hf_path)
