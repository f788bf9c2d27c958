"""PEFT folders of LoRA's variants, written with numpy, and the delta each of them means by PEFT's own formula."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import Target
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape
from tests.support.adapters import ALL_MODULES, peft_config, write_safetensors

PREFIX = "base_model.model."
Deltas = Mapping[str, NDArray[np.float64]]
"""By module path, what is added to its weight."""


def targets(shape: LlamaShape) -> list[Target]:
    return [Target(layer, module) for layer in range(shape.layers) for module in LINEAR_MODULES]


def save(folder: Path, tensors: Mapping[str, NDArray[Any]], **config: Any) -> Path:
    """A folder of these tensors (names without the prefix) and a configuration for all linear modules."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = peft_config(rank=4, alpha=8, targets=ALL_MODULES) | config
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    prefixed = {PREFIX + name: values.astype(np.float32) for name, values in tensors.items()}
    write_safetensors(folder / "adapter_model.safetensors", prefixed)
    return folder


def plain(
    shape: LlamaShape, *, rank: int, ranks: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Random factors for every linear module; `ranks` by short name."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for target in targets(shape):
        r = (ranks or {}).get(target.module.short, rank)
        a = rng.standard_normal((r, target.module.in_features(shape))) * 0.1
        b = rng.standard_normal((target.module.out_features(shape), r)) * 0.1
        tensors[f"{target.hf_path}.lora_A.weight"] = a.astype(np.float32)
        tensors[f"{target.hf_path}.lora_B.weight"] = b.astype(np.float32)
    return tensors


def product(tensors: Mapping[str, NDArray[Any]], path: str, *, scale: float) -> NDArray[np.float64]:
    a, b = (tensors[f"{path}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    found: NDArray[np.float64] = scale * b @ a
    return found


def adalora(folder: Path, shape: LlamaShape, *, init_rank: int, alpha: float, seed: int) -> Deltas:
    """AdaLoRA with ranks given up at random, some modules to nothing."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = {}
    masks: dict[str, list[bool]] = {}
    deltas: dict[str, NDArray[np.float64]] = {}
    for n, target in enumerate(targets(shape)):
        mask = [bool(flag) for flag in rng.integers(0, 2, init_rank)] if n else [True] * init_rank
        path, r = target.hf_path, sum(mask)
        a = rng.standard_normal((r, target.module.in_features(shape))).astype(np.float32)
        b = rng.standard_normal((target.module.out_features(shape), r)).astype(np.float32)
        e = rng.standard_normal((r, 1)).astype(np.float32)
        tensors |= {f"{path}.lora_A": a, f"{path}.lora_B": b, f"{path}.lora_E": e}
        masks[f"{path}.lora_E"] = mask
        if r:
            deltas[path] = b.astype(np.float64) @ (a.astype(np.float64) * e) * alpha / (init_rank + 1e-5)
    own = {"peft_type": "ADALORA", "init_r": init_rank, "target_r": 2, "total_step": 9, "lora_alpha": alpha}
    save(folder, tensors, rank_pattern=masks, **own)
    return deltas


def blocks(folder: Path, shape: LlamaShape, *, rank: int, count: int, seed: int) -> Deltas:
    """BD-LoRA: o and down with a block-diagonal A, q and up with a block-diagonal B, the rest plain."""
    tensors: dict[str, NDArray[Any]] = dict(plain(shape, rank=rank, seed=seed))
    deltas = {}
    for target in targets(shape):
        for side, modules in (("A", ("o_proj", "down_proj")), ("B", ("q_proj", "up_proj"))):
            if target.module.short in modules:
                name = f"{target.hf_path}.lora_{side}.weight"
                whole = tensors[name]
                rows, width = (n // count for n in whole.shape)
                parts = [whole[n * rows : (n + 1) * rows, n * width : (n + 1) * width] for n in range(count)]
                tensors[name] = np.vstack(parts)
                filled = np.zeros_like(whole)
                for n, part in enumerate(parts):
                    filled[n * rows : (n + 1) * rows, n * width : (n + 1) * width] = part
                deltas[name] = filled
    own = {"target_modules_bd_a": ["o_proj", "down_proj"], "target_modules_bd_b": ["q_proj", "up_proj"]}
    save(folder, tensors, r=rank, use_bdlora=own | {"nblocks": count, "match_strict": False})
    filled_in = tensors | deltas
    return {t.hf_path: product(filled_in, t.hf_path, scale=8 / rank) for t in targets(shape)}


def kasa(folder: Path, shape: LlamaShape, weights: Mapping[str, NDArray[Any]], *, rank: int, seed: int) -> Deltas:
    """KaSA beside the base `weights`, with a rank of its own for v_proj."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = dict(plain(shape, rank=rank, ranks={"v_proj": 1}, seed=seed))
    deltas = {}
    for target in targets(shape):
        path, r = target.hf_path, 1 if target.module.short == "v_proj" else rank
        diagonal = rng.standard_normal(r).astype(np.float32)
        u, s, vh = np.linalg.svd(weights[f"{path}.weight"].astype(np.float64), full_matrices=False)
        lost = (u[:, -r:] * s[-r:]) @ vh[-r:]
        a, b = (tensors[f"{path}.lora_{side}.weight"].astype(np.float64) for side in "AB")
        deltas[path] = 8 / r * (b * diagonal) @ a - lost
        tensors[f"{path}.lora_diag"] = diagonal
    save(folder, tensors, r=rank, rank_pattern={"v_proj": 1}, kasa_config={"beta": 1e-4, "gamma": 1e-3})
    return deltas
