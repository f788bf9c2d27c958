"""Adapters as mlx-lm's trainer leaves them, made without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_safetensors
from tests.support.lora import GQA, every_target, random_adapter

CONFIG: dict[str, Any] = {
    "fine_tune_type": "lora",
    "lora_parameters": {"rank": 4, "dropout": 0.0, "scale": 20.0},
    "model": "mlx-community/tiny",
    "num_layers": 1,
}


def last_layer(shape: LlamaShape = GQA, **more: Any) -> LoraAdapter:
    return random_adapter(shape, targets=[t for t in every_target(shape) if t.layer == shape.layers - 1], **more)


def trained(folder: Path, adapter: LoraAdapter, **config: Any) -> Path:
    """As mlx-lm's trainer leaves it: the adapter, an earlier checkpoint of it, and all its settings."""
    tensors: dict[str, NDArray[np.float32]] = {}
    for target, pair in adapter.pairs.items():
        tensors[f"{target.hf_path}.lora_a"] = np.ascontiguousarray(pair.a.T)
        tensors[f"{target.hf_path}.lora_b"] = np.ascontiguousarray(pair.b.T)
        if pair.magnitude is not None:
            tensors[f"{target.hf_path}.m"] = pair.magnitude
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    write_safetensors(folder / "adapters.safetensors", tensors)
    write_safetensors(folder / "0000100_adapters.safetensors", tensors)
    return folder
