"""Reads the rows that PEFT's trainable_token_indices replace: of which tokens, and what stands there instead."""

from __future__ import annotations

from edgelora_converters.lora.adapter import Target, TokenRows
from edgelora_converters.peft.config import PeftConfig
from edgelora_converters.peft.tensor_names import Names
from edgelora_converters.peft.tensors import TOKEN_ROWS
from edgelora_converters.tensors.safetensors_reader import SafetensorsFile
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible
from edgelora_models.modules import EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape

_OUTER = {module.hf: module for module in (EMBEDDING, HEAD)}


def read_token_rows(
    config: PeftConfig, weights: SafetensorsFile, names: Names, shape: LlamaShape
) -> dict[Target, TokenRows]:
    """Read the trained rows of embedding and head. A tied head with the embedding's own tokens has no rows: it follows,
    in PEFT and here.

    Raises AdapterCorrupt where rows are missing or not as many as tokens, AdapterIncompatible for another base's.
    """
    stored = names.having(TOKEN_ROWS)
    token_rows: dict[Target, TokenRows] = {}
    for path, tokens in config.token_indices.items():
        target = Target(None, _OUTER[path])
        if path in stored:
            _check(stored[path], weights.tensors[stored[path]].shape, tokens, shape)
            token_rows[target] = TokenRows(tokens, weights.read_f32(stored[path]))
        elif not _follows(path, config, shape):
            message = f"{path} lacks the rows of its {len(tokens)} trained tokens."
            remedy = "The file is incomplete: save the adapter again."
            raise AdapterCorrupt("adapter_incomplete", message, remedy, param=path)
    return token_rows


def _follows(path: str, config: PeftConfig, shape: LlamaShape) -> bool:
    return shape.tied and path == HEAD.hf and config.token_indices[path] == config.token_indices.get(EMBEDDING.hf)


def _check(name: str, stored: tuple[int, ...], tokens: tuple[int, ...], shape: LlamaShape) -> None:
    if max(tokens) >= shape.vocab or (len(stored) == 2 and stored[1] != shape.hidden):
        message = (
            f"The adapter trains the token {max(tokens)} with rows {list(stored)}; the base has {shape.vocab} tokens"
        )
        remedy = "It was made for another base: choose that base (edgelora base ls)."
        raise AdapterIncompatible("adapter_token_rows", f"{message} of {shape.hidden} values.", remedy, param=name)
    if stored != (len(tokens), shape.hidden):
        message = f"The tensor {name} has the shape {list(stored)} for {len(tokens)} tokens."
        raise AdapterCorrupt("adapter_tensor_shape", message, "Save the adapter again with PEFT.", param=name)
