"""Completing an adapter with values of the very base it will run on: DoRA's norms, and the rows that trainable tokens
replace.

An adapter read from PEFT lacks them; `complete` fills them in where the format needs them. Owns that choice, and what
is noted of it; the mathematics is `lora.dora` and `lora.token_rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.lora.dora import is_dora, with_row_scales
from edgelora_converters.lora.token_rows import with_token_pairs
from edgelora_converters.weights.base import BaseWeights
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.errors import AdapterUnsupported
from edgelora_models.hf_config import read_mlx_bits

NOTE = "base_weights"
"""In an adapter's metadata and a file's provenance: which weights it was completed with."""
_MLX_BITS = frozenset({2, 4, 8})
"""mlx-lm 0.32.2 takes a word to hold 32 // bits values of a row, which for 3, 5 and 6 bits is not its width."""


def needs_base(adapter: LoraAdapter) -> bool:
    """Return whether an adapter needs the base it will run on, in some format."""
    return is_dora(adapter) or bool(adapter.token_rows)


def complete(
    adapter: LoraAdapter,
    base: Path,
    *,
    to: str,
    norms: BaseWeights | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LoraAdapter:
    """Complete `adapter` with all that the format `to` takes of the base at `base`, a GGUF file or a folder.

    `norms`: other weights that DoRA's norms are to be of, such as the trained ones behind a quantized base. MLX takes
    the norms itself, and PEFT all of it. `progress` is called with modules done and in all. Raises AdapterUnsupported
    for what cannot be, BaseError and StorageError.
    """
    if to == "mlx" and is_dora(adapter):
        _check_mlx(base)
    scales = to == "mapped" and is_dora(adapter) and not adapter.row_scales
    if to == "peft" or not (scales or adapter.token_rows):
        return adapter
    if to == "mlx" and not base.is_dir():
        message = "The adapter replaces rows (trained tokens) of the very base it runs on, and this one is no MLX base."
        raise AdapterUnsupported("base_needed", message, "Give the MLX folder it is for (--base).")
    with open_base_weights(base) as weights:
        adapter = with_token_pairs(adapter, weights)
        if not scales:
            return _noted(adapter, weights)
        source = norms or weights
        return _noted(with_row_scales(adapter, source, progress=progress), source)


def _noted(adapter: LoraAdapter, weights: BaseWeights) -> LoraAdapter:
    note = f"{weights.precision}, {'as trained' if weights.exact else 'dequantized'}"
    return replace(adapter, metadata={**adapter.metadata, NOTE: note})


def _check_mlx(base: Path) -> None:
    if base.is_dir() and not (bits := read_mlx_bits(base)) <= _MLX_BITS:
        message = f"mlx-lm cannot run DoRA on a base of {min(bits - _MLX_BITS)} bits."
        raise AdapterUnsupported("dora_mlx_bits", message, "Use a base of 4 or 8 bits, or one that is not quantized.")
