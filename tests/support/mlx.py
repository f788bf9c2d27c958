"""The tiny bases of `tests.support.bases` as folders the MLX backend opens, tokenizer included. Needs no mlx."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_safetensors
from tests.support.bases import CONTROL_TOKENS, byte_alphabet, tiny_config, tiny_weights
from tests.support.checkpoints import write_tokenizer
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
