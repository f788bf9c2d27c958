"""Reading an MLX adapter as a source: one that mlx-lm trained, or one converted from PEFT. Owns what its keys mean.

mlx-lm has one rank and one scale for all modules. `keys` are names within a layer, for the last `num_layers` layers, or
full paths; without any, all linear modules of those layers are adapted. The tensors are the truth and the
configuration must agree with them. `mlx.writer` writes such folders and reads its own for the gate.

Source: mlx-lm 0.32.2, tuner/utils.py (linear_to_lora_layers, load_adapters) and tuner/lora.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.mlx.writer import CONFIG_LIMIT, CONFIG_NAME, TENSORS_NAME
from edgelora_converters.tensors.files_digest import files_digest
from edgelora_converters.tensors.safetensors_reader import SafetensorsFile, open_safetensors
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.files import quoted, read_json
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD, LINEAR_MODULES
from edgelora_models.shape import LlamaShape

_FIX = "Correct it, or save the adapter again with mlx-lm."
_REMEDY_BASE = "It was made for another base: choose that base (--base)."
_OUTER = {EMBEDDING.hf: EMBEDDING, HEAD.hf: HEAD}


@dataclass(frozen=True, slots=True)
class _Config:
    rank: int
    scale: float
    dora: bool
    keys: frozenset[str] | None
    """Names of the selected modules; None for all linear modules."""
    last: int
    """Number of layers from the end; 0 or fewer select all."""
    base_model: str | None


def read(folder: Path, shape: LlamaShape, *, digest: str | None = None) -> LoraAdapter:
    """Read the adapter in `folder`, for a base of `shape`. Ranks that were padded with zeros are cut back to their own.

    `digest`: the `source_digest` of the folder, where the caller has it; else the files are hashed here.
    Raises AdapterCorrupt where folder and configuration disagree or a value is not finite, AdapterIncompatible for
    other widths or layers, AdapterUnsupported for full fine-tunes and what PEFT has no form for, StorageError.
    """
    config = _read_config(folder / CONFIG_NAME)
    targets = _selected(config, shape)
    with open_safetensors(folder / TENSORS_NAME) as file:
        _check_selection(_targets(file, config, shape), targets)
        _check_tied(targets, shape)
        pairs = {target: _pair(file, target, shape, config) for target in targets}
    return LoraAdapter(pairs, digest or source_digest(folder), config.base_model, _facts(config))


def source_digest(folder: Path) -> str:
    """Return `files_digest` of the two files."""
    return files_digest(folder, (CONFIG_NAME, TENSORS_NAME))


def _read_config(path: Path) -> _Config:
    fields = read_json(path, limit=CONFIG_LIMIT, error=AdapterCorrupt)
    kind = fields.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        message = f"{path.name} says fine_tune_type {quoted(str(kind))}: it changes the base's own weights."
        raise AdapterUnsupported("fine_tune_type", message, "Use the tuned model as a base.", param="fine_tune_type")
    parameters = fields.get("lora_parameters")
    if not isinstance(parameters, dict):
        raise _bad(path, "lora_parameters")
    rank, scale, keys = (parameters.get(name) for name in ("rank", "scale", "keys"))
    last = fields.get("num_layers")
    if type(rank) is not int or rank < 1:
        raise _bad(path, "rank")
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not abs(scale) <= sys.float_info.max:
        raise _bad(path, "scale")
    if keys is not None and (not isinstance(keys, list) or not all(isinstance(key, str) for key in keys)):
        raise _bad(path, "keys")
    if type(last) is not int:
        raise _bad(path, "num_layers")
    return _Config(
        rank=rank,
        scale=float(scale),
        dora=kind == "dora",
        keys=None if keys is None else frozenset(keys),
        last=last,
        base_model=_base_model(fields),
    )


def _base_model(fields: Mapping[str, Any]) -> str | None:
    """Return the base's name as mlx-lm's trainer, or we, noted it; for people."""
    ours = fields.get("edgelora")
    names = (fields.get("model"), ours.get("trained_on") if isinstance(ours, dict) else None)
    return next((name for name in names if isinstance(name, str) and name), None)


def _bad(path: Path, field: str) -> AdapterCorrupt:
    return AdapterCorrupt("bad_config", f"{path.name} has no usable {field}.", _FIX, param=field)


def _selected(config: _Config, shape: LlamaShape) -> list[Target]:
    """Return the modules mlx-lm would adapt, in the order of a forward pass. Keys that match nothing mean nothing
    there."""
    keys = frozenset(module.hf for module in LINEAR_MODULES) if config.keys is None else config.keys
    first = max(shape.layers - config.last, 0) if config.last > 0 else 0
    inner = [Target(layer, module) for layer in range(shape.layers) for module in LINEAR_MODULES]
    chosen = [
        t for t in inner if t.hf_path in keys or (t.layer is not None and t.layer >= first and t.module.hf in keys)
    ]
    outer = [Target(None, module) for name, module in _OUTER.items() if name in keys]
    return sorted([*outer, *chosen], key=lambda target: target.depth)


def _targets(file: SafetensorsFile, config: _Config, shape: LlamaShape) -> frozenset[Target]:
    """Return the modules of the file. Every tensor is a factor of one, and every one is complete."""
    leaves_of: dict[Target, set[str]] = {}
    for name in file.names:
        path, _, leaf = name.rpartition(".")
        if leaf not in ("lora_a", "lora_b", "m"):
            message = f"The tensor {quoted(name)} is no LoRA factor."
            raise AdapterUnsupported(
                "unknown_tensor", message, "Train the adapter with mlx-lm's lora alone.", param=name
            )
        leaves_of.setdefault(_target(path, name, shape), set()).add(leaf)
    expected = {"lora_a", "lora_b", "m"} if config.dora else {"lora_a", "lora_b"}
    for target, leaves in leaves_of.items():
        if odd := sorted(leaves ^ expected):
            how = "is missing" if odd[0] in expected else "belongs to DoRA, which the configuration does not say"
            message = f"The tensor {target.hf_path}.{odd[0]} {how}."
            raise AdapterCorrupt("incomplete_pair", message, _FIX, param=f"{target.hf_path}.{odd[0]}")
    return frozenset(leaves_of)


def _target(path: str, name: str, shape: LlamaShape) -> Target:
    if path in _OUTER:
        return Target(None, _OUTER[path])
    match = re.fullmatch(r"model\.layers\.(0|[1-9]\d{0,5})\.(.+)", path, flags=re.ASCII)
    if match is None or match[2] not in BY_HF:
        message = f"The tensor {quoted(name)} is of no module of a Llama."
        raise AdapterUnsupported(
            "unknown_tensor", message, "Train the adapter on a Llama's linear modules.", param=name
        )
    if int(match[1]) >= shape.layers:
        message = f"The tensor {name} is for layer {match[1]}; the base has {shape.layers} layers."
        raise AdapterIncompatible("layer_mismatch", message, _REMEDY_BASE, param=name)
    return Target(int(match[1]), BY_HF[match[2]])


def _check_selection(present: frozenset[Target], chosen: list[Target]) -> None:
    """mlx-lm refuses tensors of modules it does not adapt, and leaves adapted modules without tensors untrained."""
    if odd := sorted(present ^ set(chosen), key=lambda target: (target.depth, target.hf_path)):
        how = "has tensors and is not selected" if odd[0] in present else "is selected and has no tensors"
        message = f"{odd[0].hf_path} {how} by {CONFIG_NAME}, for a base of this many layers."
        raise AdapterCorrupt("adapter_modules", message, _REMEDY_BASE, param=odd[0].hf_path)


def _check_tied(targets: list[Target], shape: LlamaShape) -> None:
    if shape.tied and (outer := [target for target in targets if target.layer is None]):
        message = f"The base's head is its embedding, so mlx-lm applies the factors of {outer[0].hf_path} to both."
        remedy = "Merge it with mlx-lm (mlx_lm.fuse); PEFT and GGUF have no form for it."
        raise AdapterUnsupported("mlx_tied_embedding", message, remedy, param=outer[0].hf_path)


def _pair(file: SafetensorsFile, target: Target, shape: LlamaShape, config: _Config) -> LoraPair:
    a, b = (file.read_f32(f"{target.hf_path}.{leaf}") for leaf in ("lora_a", "lora_b"))
    expected = ((target.module.in_features(shape), config.rank), (config.rank, target.module.out_features(shape)))
    if (a.shape, b.shape) != expected:
        message = (
            f"{target.hf_path} has factors {list(a.shape)} and {list(b.shape)}, not {[list(w) for w in expected]}."
        )
        raise AdapterIncompatible("shape_mismatch", message, _REMEDY_BASE, param=target.hf_path)
    rank = used_rank(a.T, b.T)
    a, b = np.ascontiguousarray(a.T[:rank]), np.ascontiguousarray(b.T[:, :rank])
    return LoraPair(a, b, config.scale, magnitude=_magnitude(file, target, shape) if config.dora else None)


def used_rank(a: NDArray[Any], b: NDArray[Any]) -> int:
    """Return the rank without the zeros that padding has put behind it, in both factors: a [rank, in], b [out,
    rank]."""
    used = np.flatnonzero(a.any(axis=1) | b.any(axis=0))
    return int(used[-1]) + 1 if used.size else 1


def _magnitude(file: SafetensorsFile, target: Target, shape: LlamaShape) -> NDArray[np.float32]:
    name = f"{target.hf_path}.m"
    if target.module == EMBEDDING:
        message = "The embedding has a magnitude for every token; PEFT's DoRA has one for every dimension."
        raise AdapterUnsupported("mlx_dora_embedding", message, "Train it without DoRA on the embedding.", param=name)
    values = file.read_f32(name)
    if values.shape != (target.module.out_features(shape),):
        message = f"{name} has the shape {list(values.shape)}, not [{target.module.out_features(shape)}]."
        raise AdapterIncompatible("shape_mismatch", message, _REMEDY_BASE, param=name)
    return values


def _facts(config: _Config) -> Mapping[str, str]:
    return {"rank": str(config.rank), "alpha": f"{config.scale * config.rank:g}", "trained_with": "mlx-lm"}
