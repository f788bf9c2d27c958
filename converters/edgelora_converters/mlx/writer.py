"""An adapter as the folder mlx-lm loads: `adapter_config.json` and `adapters.safetensors`. Owns that layout, both ways.

mlx-lm (0.32.2) knows one rank and one scale for a whole adapter. So each module's scale is folded into its lora_b and
the folder says scale 1.0; every pair is padded with zeros to the largest rank; and `keys` are full module paths, which
mlx-lm matches exactly. Factors are [in, rank] and [rank, out], rows in Hugging Face order; the embedding's lora_a is
[vocab, rank]. DoRA is a folder's or it is not: `fine_tune_type` "dora", and an `m` [out] for every module.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.lora.fit import check_fits, check_parts, check_untied, folded_b
from edgelora_converters.tensors.lazy import LazyMapping
from edgelora_converters.tensors.safetensors_reader import SafetensorsFile, open_safetensors
from edgelora_converters.tensors.safetensors_writer import Planned, write_safetensors
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.files import read_json
from edgelora_models.modules import BY_HF, OUTER_MODULES
from edgelora_models.shape import LlamaShape
from edgelora_models.storage import staged

CONFIG_NAME = "adapter_config.json"
TENSORS_NAME = "adapters.safetensors"
CONFIG_LIMIT = 4 << 20
"""Bytes. An 80-layer model's configuration takes about 25 kB."""
REMEDY_BASE = "Use the base it was converted for, or convert it for this one."
REMEDY_CONVERT = "Convert the adapter again."

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


class Stored(NamedTuple):
    """A module of a folder, with the folder's scale in b, padding included."""

    a: NDArray[np.float32]
    """[in, rank]"""
    b: NDArray[np.float32]
    """[rank, out]"""
    m: NDArray[np.float32] | None = None
    """[out]: DoRA's magnitude."""


@dataclass(frozen=True, slots=True)
class _Config:
    rank: int
    scale: float
    dora: bool
    targets: list[Target]


def write(adapter: LoraAdapter, shape: LlamaShape, out: Path, *, provenance: Mapping[str, str]) -> None:
    """Write `adapter` for a base of `shape` to the new folder `out`, whole or not at all.

    `provenance` goes into the configuration under "edgelora", which mlx-lm ignores. The same arguments give the same
    bytes. Raises AdapterIncompatible where a factor does not fit the base, AdapterUnsupported for an aLoRA, lora_bias,
    embedding and head of a tied base, DoRA of some modules alone, or where a scale leaves float32's range, StorageError
    where the folder cannot be written.
    """
    check_fits(adapter, shape)
    check_parts(adapter, to="an MLX adapter", carried=("dora", "embedding_lora", "head_lora"))
    check_untied(adapter, shape, to="an MLX adapter")
    _check_one_kind(adapter)
    if adapter.invocation:
        message = "The adapter is an aLoRA: it acts from its invocation on, and mlx-lm would apply it to every token."
        raise AdapterUnsupported(
            "alora", message, "Convert it to GGUF, for a GGUF base.", param="alora_invocation_tokens"
        )
    facts = {**provenance, "source_digest": adapter.source_digest, "fold": "scale into lora_b"}
    with staged(out) as temporary:
        temporary.mkdir()
        config = json.dumps(_config(adapter, shape, facts), indent=2, sort_keys=True)
        (temporary / CONFIG_NAME).write_text(config + "\n", encoding="utf-8")
        write_safetensors(temporary / TENSORS_NAME, list(_tensors(adapter)), metadata={"format": "mlx"})


def _check_one_kind(adapter: LoraAdapter) -> None:
    """mlx-lm makes every module DoRA's or none; for a plain one the magnitude would have to be the base's own norm."""
    plain = [target for target, pair in adapter.pairs.items() if pair.magnitude is None]
    if len(plain) not in (0, len(adapter.pairs)):
        message = f"{plain[0].hf_path} is without DoRA beside modules with it, which an MLX adapter cannot carry."
        raise AdapterUnsupported("dora", message, "Convert it for a GGUF base.", param=plain[0].hf_path)


def _config(adapter: LoraAdapter, shape: LlamaShape, facts: Mapping[str, str]) -> dict[str, Any]:
    keys = sorted(target.hf_path for target in adapter.pairs)
    parameters = {"rank": adapter.max_rank, "scale": 1.0, "dropout": 0.0, "keys": keys}
    return {
        "fine_tune_type": "dora" if _is_dora(adapter) else "lora",
        "num_layers": shape.layers,
        "lora_parameters": parameters,
        "edgelora": dict(facts),
    }


def _is_dora(adapter: LoraAdapter) -> bool:
    return all(pair.magnitude is not None for pair in adapter.pairs.values())


def _tensors(adapter: LoraAdapter) -> Iterator[Planned]:
    """Yield the tensors in the order of their names; each is padded, transposed and folded when it is written."""
    rank = adapter.max_rank
    for target in sorted(adapter.pairs, key=lambda target: target.hf_path):
        pair = adapter.pairs[target]
        width, out = pair.a.shape[1], pair.b.shape[0]
        yield Planned(f"{target.hf_path}.lora_a", "F32", (width, rank), partial(_padded_a, pair, rank))
        yield Planned(f"{target.hf_path}.lora_b", "F32", (rank, out), partial(_padded_b, target, pair, rank))
        if pair.magnitude is not None:
            yield Planned(f"{target.hf_path}.m", "F32", (out,), partial(list, [pair.magnitude]))


def _padded_a(pair: LoraPair, rank: int) -> list[NDArray[np.float32]]:
    """Return A as [rank, in], padded."""
    a = np.zeros((pair.a.shape[1], rank), np.float32)
    a[:, : pair.rank] = pair.a.T
    return [a]


def _padded_b(target: Target, pair: LoraPair, rank: int) -> list[NDArray[np.float32]]:
    """Return B as [rank, out], padded."""
    b = np.zeros((rank, pair.b.shape[0]), np.float32)
    b[: pair.rank] = folded_b(target, pair).T
    return [b]


def read(folder: Path, shape: LlamaShape) -> dict[Target, Stored]:
    """Read a folder as `write` makes it back, checked against a base of `shape`, float32.

    Raises AdapterCorrupt where folder and configuration disagree or a value is not finite, AdapterIncompatible for
    other widths or layers, AdapterUnsupported for other kinds of MLX adapters, StorageError where a file cannot be
    read.
    """
    with opened(folder, shape) as modules:
        return dict(modules)


@contextmanager
def opened(folder: Path, shape: LlamaShape) -> Iterator[Mapping[Target, Stored]]:
    """Yield the modules as `read` does, but read and check each on access. Raises as `read` does."""
    config = _read_config(folder / CONFIG_NAME, shape)
    with open_safetensors(folder / TENSORS_NAME) as file:
        _check_names(file.names, config)
        yield LazyMapping(config.targets, lambda target: _read_module(file, target, shape, config))


def _read_config(path: Path, shape: LlamaShape) -> _Config:
    """Rank, scale, kind and modules, from a configuration with exactly the fields that decide what mlx-lm would do."""
    config = read_json(path, limit=CONFIG_LIMIT, error=AdapterCorrupt)
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        message = f"{path.name} says fine_tune_type {kind!r}."
        raise AdapterUnsupported("fine_tune_type", message, "Convert a LoRA or DoRA adapter.", param="fine_tune_type")
    parameters = config.get("lora_parameters")
    if not isinstance(parameters, dict):
        raise _bad_config(path, "lora_parameters")
    rank, scale, keys = (parameters.get(name) for name in ("rank", "scale", "keys"))
    if type(rank) is not int or rank < 1:
        raise _bad_config(path, "rank")
    if not isinstance(scale, int | float) or not abs(scale) <= sys.float_info.max:
        raise _bad_config(path, "scale")
    if not isinstance(keys, list) or not keys or len(set(map(str, keys))) != len(keys):
        raise _bad_config(path, "keys")
    if config.get("num_layers") != shape.layers:
        message = f"{path.name} is for a base of {config.get('num_layers')} layers; this one has {shape.layers}."
        raise AdapterIncompatible("layer_mismatch", message, REMEDY_BASE, param="num_layers")
    return _Config(rank, float(scale), kind == "dora", [_target(key, shape) for key in keys])


def _target(key: object, shape: LlamaShape) -> Target:
    for module in OUTER_MODULES:
        if key == module.hf and not shape.tied:
            return Target(None, module)
    match = re.fullmatch(r"model\.layers\.(0|[1-9]\d{0,5})\.(.+)", str(key), flags=re.ASCII)
    if match is None or match[2] not in BY_HF:
        message = f"The adapter names {str(key)[:200]!r}, which is not the full path of a linear module of a Llama."
        raise AdapterUnsupported(
            "unknown_module", message, "Convert the PEFT adapter with edgelora.", param=str(key)[:200]
        )
    if int(match[1]) >= shape.layers:
        message = f"The adapter changes {key}; the base has {shape.layers} layers."
        raise AdapterIncompatible("layer_mismatch", message, REMEDY_BASE, param=str(key))
    return Target(int(match[1]), BY_HF[match[2]])


def _check_names(names: Iterable[str], config: _Config) -> None:
    """mlx-lm loads a folder that lacks tensors, and runs the base alone; here every key has its pair and no more."""
    halves = ("lora_a", "lora_b", "m") if config.dora else ("lora_a", "lora_b")
    expected = {f"{target.hf_path}.{half}" for target in config.targets for half in halves}
    if odd := sorted(expected ^ set(names)):
        how = "is missing" if odd[0] in expected else "belongs to none of its keys"
        raise AdapterCorrupt("incomplete_pair", f"The tensor {odd[0]} {how}.", REMEDY_CONVERT, param=odd[0])


def _read_module(file: SafetensorsFile, target: Target, shape: LlamaShape, config: _Config) -> Stored:
    a, b = (file.read_f32(f"{target.hf_path}.{half}") for half in ("lora_a", "lora_b"))
    m = file.read_f32(f"{target.hf_path}.m") if config.dora else None
    width, out = target.module.in_features(shape), target.module.out_features(shape)
    expected = [(width, config.rank), (config.rank, out), (out,)]
    shapes = [tensor.shape for tensor in (a, b, m) if tensor is not None]
    if shapes != expected[: len(shapes)]:
        message = f"{target.hf_path} has tensors of {[list(f) for f in shapes]}, not {[list(w) for w in expected]}."
        raise AdapterIncompatible("shape_mismatch", message, REMEDY_BASE, param=target.hf_path)
    return Stored(a, b if config.scale == 1 else folded_b(target, LoraPair(a.T, b.T, config.scale)).T, m)


def _bad_config(path: Path, field: str) -> AdapterCorrupt:
    return AdapterCorrupt("bad_config", f"{path.name} has no usable {field}.", REMEDY_CONVERT, param=field)
