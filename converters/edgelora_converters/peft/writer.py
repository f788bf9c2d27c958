"""Writing an adapter as PEFT saves one: adapter_config.json and adapter_model.safetensors, for real PEFT to load.

Factors are written as they are, in the narrowest of float16, bfloat16 and float32 that holds all of them, and the scale
as lora_alpha = scale * rank. What PEFT cannot say so (a scale that is zero or negative) goes into lora_B, with
lora_alpha = r. Where ranks or alphas differ, the most common ones are `r` and `lora_alpha`, and the others stand in
rank_pattern and alpha_pattern under full module paths. Reading such a folder back is `peft.reader`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target, TokenRows
from edgelora_converters.lora.fit import check_fits, folded_b
from edgelora_converters.peft.config import CONFIG_NAME
from edgelora_converters.peft.folder import WEIGHTS_NAME
from edgelora_converters.tensors.dtypes import DTYPES, NARROW, Kind, holds, stored
from edgelora_converters.tensors.safetensors_writer import Planned, by_width, write_safetensors
from edgelora_models.errors import AdapterUnsupported
from edgelora_models.modules import EMBEDDING, LinearModule
from edgelora_models.shape import LlamaShape
from edgelora_models.storage import staged

PEFT_VERSION = "0.21.2"
"""PEFT version whose meaning of the configuration is written; readers of patterns need to know."""
MAX_ALPHA = 1e6
"""Largest alpha that our own reader takes; a larger scale goes into lora_B."""


def write(adapter: LoraAdapter, shape: LlamaShape, out: Path, *, provenance: Mapping[str, str]) -> None:
    """Write `adapter` for a base of `shape` to the new folder `out`, whole or not at all.

    `provenance` goes into the metadata of the safetensors file, as `edgelora.<name>` beside the source digest. The same
    arguments give the same bytes. Raises AdapterIncompatible where a factor does not fit the base, AdapterUnsupported
    where only some modules have DoRA's magnitude or a folded scale leaves float32's range, StorageError.
    """
    check_fits(adapter, shape)
    pairs = {target: sayable(target, pair) for target, pair in adapter.pairs.items()}
    _check_dora(pairs)
    facts = {**provenance, "source_digest": adapter.source_digest, "fold": "none"}
    with staged(out) as temporary:
        temporary.mkdir()
        config = json.dumps(_config(adapter, pairs, shape), indent=2, sort_keys=True)
        (temporary / CONFIG_NAME).write_text(config + "\n", encoding="utf-8")
        metadata = {"format": "pt", **{f"edgelora.{name}": value for name, value in facts.items()}}
        write_safetensors(temporary / WEIGHTS_NAME, by_width(_tensors(pairs, adapter.token_rows)), metadata=metadata)


def sayable(target: Target, pair: LoraPair) -> LoraPair:
    """Return `pair` with a scale that lora_alpha can say: as it is, or the same delta with scale 1."""
    if 0 < pair.scale * pair.rank <= MAX_ALPHA:
        return pair
    bias = None if pair.bias is None else (pair.bias.astype(np.float64) * pair.scale).astype(np.float32)
    return replace(pair, b=folded_b(target, pair), scale=1.0, bias=bias)


def _check_dora(pairs: Mapping[Target, LoraPair]) -> None:
    plain = [target for target, pair in pairs.items() if pair.magnitude is None]
    if plain and len(plain) < len(pairs):
        message = f"{plain[0].hf_path} has no magnitude, and other modules have: PEFT's use_dora is for all or none."
        remedy = "Convert the adapter to GGUF or MLX, or merge it into its base."
        raise AdapterUnsupported("peft_mixed_dora", message, remedy, param=plain[0].hf_path)


def _config(adapter: LoraAdapter, pairs: Mapping[Target, LoraPair], shape: LlamaShape) -> dict[str, Any]:
    ranks = {target.hf_path: pair.rank for target, pair in pairs.items()}
    alphas = {target.hf_path: _number(pair.scale * pair.rank) for target, pair in pairs.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "alora_invocation_tokens": list(adapter.invocation) or None,
        "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
        "base_model_name_or_path": adapter.base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_bias": any(pair.bias is not None for pair in pairs.values()),
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "r": rank,
        "rank_pattern": {path: value for path, value in ranks.items() if value != rank},
        "target_modules": sorted(_names(pairs, shape)),
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": {t.module.short: list(rows.tokens) for t, rows in adapter.token_rows.items()}
        or None,
        "use_dora": any(pair.magnitude is not None for pair in pairs.values()),
        "use_rslora": False,
    }


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def _names(targets: Iterable[Target], shape: LlamaShape) -> Iterator[str]:
    """target_modules: the short name of a module that is there in every layer, else the full path of each."""
    layers: dict[LinearModule, list[Target]] = {}
    for target in targets:
        layers.setdefault(target.module, []).append(target)
    for module, adapted in layers.items():
        if adapted[0].layer is None or len(adapted) == shape.layers:
            yield module.short
        else:
            yield from (target.hf_path for target in adapted)


def _tensors(pairs: Mapping[Target, LoraPair], token_rows: Mapping[Target, TokenRows]) -> Iterator[Planned]:
    arrays = {name: array for target, pair in pairs.items() for name, array in _arrays(target, pair, pairs)}
    for target, rows in token_rows.items():
        arrays[f"base_model.model.{target.hf_path}.token_adapter.trainable_tokens_delta"] = rows.rows
    kind: Kind = next((kind for kind in NARROW if all(holds(array, kind) for array in arrays.values())), "F32")
    for name, array in arrays.items():
        yield Planned(name, kind, array.shape, _narrowed(array, kind))


def _narrowed(array: NDArray[np.float32], kind: Kind) -> Callable[[], Iterable[NDArray[Any]]]:
    return lambda: [stored(array, kind).astype(DTYPES[kind], copy=False)]


def _arrays(
    target: Target, pair: LoraPair, pairs: Mapping[Target, LoraPair]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield a module's tensors under the names PEFT saves them by. With lora_bias every module has one."""
    path = f"base_model.model.{target.hf_path}"
    if target.module == EMBEDDING:
        yield f"{path}.lora_embedding_A", pair.a
        yield f"{path}.lora_embedding_B", pair.b
    else:
        yield f"{path}.lora_A.weight", pair.a
        yield f"{path}.lora_B.weight", pair.b
    if pair.magnitude is not None:
        yield f"{path}.lora_magnitude_vector", pair.magnitude
    if pair.bias is not None:
        yield f"{path}.lora_B.bias", pair.bias
    elif target.module != EMBEDDING and any(other.bias is not None for other in pairs.values()):
        yield f"{path}.lora_B.bias", np.zeros(len(pair.b), np.float32)
