"""The numpy oracle on the tiny bases of `tests.support.bases`, and how far two sets of logits are apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.oracle.llama import Delta, Deltas, NumpyLlama, Precision
from edgelora_converters.oracle.open import hf_config
from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_safetensors
from tests.support.bases import tiny_config, tiny_weights

TOKENS = [int(n) for n in np.random.default_rng(7).integers(0, 256, 40)]
"""Long enough that llama3's stretched frequencies matter."""


def tiny_oracle(shape: LlamaShape, *, seed: int, dtype: Precision = "float64") -> NumpyLlama:
    return NumpyLlama(tiny_weights(shape, seed=seed), hf_config(tiny_config(shape)), dtype=dtype)


def write_tiny_hf(folder: Path, shape: LlamaShape, *, seed: int, config: dict[str, Any] | None = None) -> Path:
    """The same base as a Hugging Face folder without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny_config(shape) if config is None else config))
    write_safetensors(folder / "model.safetensors", tiny_weights(shape, seed=seed), metadata={"format": "pt"})
    return folder


def deltas(adapter: LoraAdapter) -> Deltas:
    """The adapter's factors with the scale multiplied in here, in float64, not by any converter."""
    return {target: _delta(adapter, target, pair) for target, pair in adapter.pairs.items()}


def _delta(adapter: LoraAdapter, target: Target, pair: LoraPair) -> Delta:
    bias = None if pair.bias is None else pair.bias.astype(np.float64) * pair.scale
    a, b = pair.a.astype(np.float64), pair.b.astype(np.float64) * pair.scale
    return Delta(a, b, bias, adapter.row_scales.get(target))


def distance(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest difference of any logit, relative to the largest logit."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
