"""Small PEFT folders for the tests, written with numpy alone, byte for byte under the test's control."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

TINY = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=128, vocab=256, tied=False)
"""The base most tests write adapters for."""

ALL_MODULES: tuple[str, ...] = tuple(module.short for module in LINEAR_MODULES)


def encode(values: NDArray[Any], dtype: str) -> bytes:
    """Little-endian bytes of `values` as a safetensors dtype; BF16 rounds to nearest even."""
    if dtype == "BF16":
        bits = values.astype("<f4").view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def decode(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """What a reader must get back for `values` stored as `dtype`, in float32."""
    raw = encode(values, dtype)
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(values.shape)
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]
    return np.frombuffer(raw, kind).astype(np.float32).reshape(values.shape)


def write_safetensors(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    *,
    dtype: str = "F32",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a valid safetensors file, tensors one after another in the given order."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    blobs: list[bytes] = []
    offset = 0
    for name, values in tensors.items():
        blob = encode(values, dtype)
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    return write_raw(path, json.dumps(header, separators=(",", ":")).encode(), b"".join(blobs))


def write_raw(path: Path, header: bytes, data: bytes) -> Path:
    """Write a safetensors file from header text and data, neither of them checked."""
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def peft_config(*, rank: int, alpha: float, targets: Sequence[str], **config: Any) -> dict[str, Any]:
    """An adapter_config.json as PEFT 0.21.2 saves it for plain LoRA, with `config` over it."""
    fields: dict[str, Any] = {
        "alora_invocation_tokens": None,
        "alpha_pattern": {},
        "arrow_config": None,
        "auto_mapping": None,
        "base_model_name_or_path": "tests/tiny-llama",
        "bias": "none",
        "corda_config": None,
        "ensure_weight_tying": False,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "kasa_config": None,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": alpha,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "lora_ga_config": None,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "monteclora_config": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": list(targets),
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_bdlora": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
        "velora_config": None,
    }
    return fields | config


def peft_tensors(
    shape: LlamaShape,
    *,
    rank: int,
    rank_pattern: Mapping[str, int] | None = None,
    targets: Sequence[str] = ALL_MODULES,
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, NDArray[np.float32]]:
    """Random factors under PEFT's key names. A key of `rank_pattern` is a short or a full module path, no regex."""
    rng = np.random.default_rng(seed)
    ranks = rank_pattern or {}
    tensors: dict[str, NDArray[np.float32]] = {}
    for layer in range(shape.layers) if layers is None else layers:
        for module in (m for m in LINEAR_MODULES if m.short in targets):
            path = module.hf_path(layer)
            r = next((n for key, n in ranks.items() if path == key or path.endswith("." + key)), rank)
            key = f"base_model.model.{path}"
            a = rng.standard_normal((r, module.in_features(shape))) * 0.1
            b = rng.standard_normal((module.out_features(shape), r)) * 0.1
            tensors[f"{key}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{key}.lora_B.weight"] = b.astype(np.float32)
    return tensors


def write_peft(
    folder: Path,
    shape: LlamaShape,
    *,
    rank: int = 4,
    alpha: float = 8,
    use_rslora: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    targets: Sequence[str] = ALL_MODULES,
    layers: Sequence[int] | None = None,
    dtype: str = "F32",
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors` into `folder` and return it.

    Factors are random: normal, deviation 0.1. `layers` limits which layers get tensors; `config` sets further fields
    of the configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields = peft_config(
        rank=rank,
        alpha=alpha,
        targets=targets,
        use_rslora=use_rslora,
        rank_pattern=dict(rank_pattern or {}),
        alpha_pattern=dict(alpha_pattern or {}),
        layers_to_transform=None if layers is None else list(layers),
        **config,
    )
    (folder / "adapter_config.json").write_text(json.dumps(fields, indent=2, sort_keys=True), encoding="utf-8")
    tensors = peft_tensors(shape, rank=rank, rank_pattern=rank_pattern, targets=targets, layers=layers, seed=seed)
    write_safetensors(folder / "adapter_model.safetensors", tensors, dtype=dtype, metadata={"format": "pt"})
    return folder
