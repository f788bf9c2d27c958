"""The tiny bases of `tests.support.bases` as folders the MLX backend opens, tokenizer included."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_safetensors
from tests.support.bases import CONTROL_TOKENS, byte_alphabet, tiny_config, tiny_weights
from tests.support.checkpoints import edit, write_tokenizer
from tests.support.oracles import write_tiny_hf


@cache
def byte_tokenizer() -> Tokenizer:
    """Every byte a token, then the control tokens: the vocabulary of the tiny GGUF bases."""
    tokenizer = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(byte_alphabet())}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    return tokenizer


def write_tiny_mlx(
    folder: Path, shape: LlamaShape, *, seed: int, dtype: str = "F32", config: dict[str, Any] | None = None
) -> Path:
    """The same weights as `write_tiny_gguf` with this seed; `config` are changes to its config.json."""
    write_tiny_hf(folder, shape, seed=seed, config=tiny_config(shape) | (config or {}))
    if dtype != "F32":
        write_safetensors(folder / "model.safetensors", tiny_weights(shape, seed=seed), dtype=dtype)
    write_tokenizer(folder, byte_tokenizer())
    return folder


def pack(
    folder: Path, *, bits: int, group: int, mode: str = "affine", only: str = ""
) -> dict[str, NDArray[np.float32]]:
    """Quantize a folder's matrices in place as mlx-lm would (`only`: those with this in their name), and give what its
    weights are now, dequantized. Needs mlx."""
    import mlx.core as mx

    path = folder / "model.safetensors"
    found: Any = mx.load(str(path))
    stored, exact = dict(found), {}
    for name, weight in found.items():
        if weight.ndim == 2 and weight.shape[1] % group == 0 and only in name:
            packing = {"group_size": group, "bits": bits, "mode": mode}
            packed, scales, *biases = mx.quantize(weight, **packing)
            module = name.removesuffix(".weight")
            stored |= {name: packed, f"{module}.scales": scales} | {f"{module}.biases": part for part in biases}
            weight = mx.dequantize(packed, scales, *biases, **packing)
        exact[name] = np.array(weight.astype(mx.float32))
    mx.eval(stored)
    mx.save_safetensors(str(path), stored)
    edit(folder / "config.json", quantization={"group_size": group, "bits": bits, "mode": mode})
    return exact
