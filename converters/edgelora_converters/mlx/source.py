"""Reading an MLX adapter as a source: one that mlx-lm trained, or one converted from PEFT. Owns which modules it
adapts.

mlx-lm has one rank and one scale for all modules. `keys` are names within a layer, for the last `num_layers` layers, or
full paths. The tensors are the truth: all of them must be of selected modules, and a selected module without tensors is
as in the base. `mlx.writer` writes such folders and reads its own for the gate.

Source: mlx-lm 0.32.2, tuner/utils.py (linear_to_lora_layers, load_adapters) and tuner/lora.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora import selection
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.mlx.source_config import FIX, MlxConfig, read_config
from edgelora_converters.mlx.writer import CONFIG_NAME, TENSORS_NAME
from edgelora_converters.tensors.files_digest import files_digest
from edgelora_converters.tensors.safetensors_reader import SafetensorsFile, open_safetensors
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.files import quoted
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD, LINEAR_MODULES
from edgelora_models.shape import LlamaShape

_REMEDY_BASE = "It was made for another base: choose that base (--base)."
_OUTER = {EMBEDDING.hf: EMBEDDING, HEAD.hf: HEAD}


def read(folder: Path, shape: LlamaShape, *, digest: str | None = None) -> LoraAdapter:
    """Read the adapter in `folder`, for a base of `shape`. Ranks that were padded with zeros are cut back to their own.

    `digest`: the `source_digest` of the folder, where the caller has it; else the files are hashed here.
    Raises AdapterCorrupt where folder and configuration disagree or a value is not finite, AdapterIncompatible for
    other widths or layers, AdapterUnsupported for full fine-tunes and what PEFT has no form for, StorageError.
    """
    config = read_config(folder / CONFIG_NAME)
    with open_safetensors(folder / TENSORS_NAME) as file:
        targets, without = _adapted(_targets(file, config, shape), _selected(config, shape), config)
        _check_tied(targets, shape)
        pairs = {target: _pair(file, target, shape, config) for target in targets}
    facts = _facts(config, selection.note(without))
    return LoraAdapter(pairs, digest or source_digest(folder), config.base_model, facts)


def source_digest(folder: Path) -> str:
    """Return `files_digest` of the two files."""
    return files_digest(folder, (CONFIG_NAME, TENSORS_NAME))


def _selected(config: MlxConfig, shape: LlamaShape) -> list[Target]:
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


def _targets(file: SafetensorsFile, config: MlxConfig, shape: LlamaShape) -> frozenset[Target]:
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
            raise AdapterCorrupt("incomplete_pair", message, FIX, param=f"{target.hf_path}.{odd[0]}")
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


def _adapted(
    present: frozenset[Target], chosen: list[Target], config: MlxConfig
) -> tuple[list[Target], tuple[Target, ...]]:
    """Return the chosen modules that have tensors, and those that have none: mlx-lm leaves them as the base has them.

    Raises AdapterCorrupt for tensors of modules that are not chosen, which mlx-lm refuses, and where there are none;
    AdapterIncompatible for an adapter of fewer layers.
    """
    if not present:
        raise AdapterCorrupt("adapter_empty", f"{TENSORS_NAME} holds no tensors.", "Save the adapter again.")
    if odd := sorted(present - set(chosen), key=lambda target: (target.depth, target.hf_path)):
        message = f"{odd[0].hf_path} has tensors and is not selected by {CONFIG_NAME}, for a base of this many layers."
        raise AdapterCorrupt("adapter_modules", message, _REMEDY_BASE, param=odd[0].hf_path)
    # Without keys the tensors tell which modules are adapted, and in which layers they should be.
    kinds = {target.module for target in present}
    meant = chosen if config.keys is not None else [target for target in chosen if target.module in kinds]
    return [target for target in meant if target in present], selection.without_tensors(meant, present)


def _check_tied(targets: list[Target], shape: LlamaShape) -> None:
    if shape.tied and (outer := [target for target in targets if target.layer is None]):
        message = f"The base's head is its embedding, so mlx-lm applies the factors of {outer[0].hf_path} to both."
        remedy = "Merge it with mlx-lm (mlx_lm.fuse); PEFT and GGUF have no form for it."
        raise AdapterUnsupported("mlx_tied_embedding", message, remedy, param=outer[0].hf_path)


def _pair(file: SafetensorsFile, target: Target, shape: LlamaShape, config: MlxConfig) -> LoraPair:
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


def _facts(config: MlxConfig, without: str) -> Mapping[str, str]:
    facts = {"rank": str(config.rank), "alpha": f"{config.scale * config.rank:g}", "trained_with": "mlx-lm"}
    notes = "; ".join(filter(None, (config.note, without)))
    return facts | ({"treatment": notes} if notes else {})
