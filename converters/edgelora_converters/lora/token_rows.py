"""Trainable tokens: rows of the embedding that an adapter replaces, as low-rank factors beside the rows that are there.

    E'[t_i] = new_i  is  E + A^T B^T with A = one-hot rows e(t_i), [k, vocab], and B = (new - E[t])^T, [hidden, k]

So it takes the base's own rows, of the very base it will run on: what is replaced there is what has to go. Where the
base is tied, PEFT replaces the head's rows with the embedding's; then the head gets the same with the factors swapped.
Source: PEFT 0.21.2, tuners/trainable_tokens/layer.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target, TokenRows
from edgelora_converters.weights.base import BaseWeights
from edgelora_models.errors import AdapterUnsupported
from edgelora_models.modules import EMBEDDING, HEAD

MAX_TOKENS = 256
"""Largest number of trained tokens of a module: each takes a row as long as the vocabulary."""

_EMBEDDING, _HEAD = Target(None, EMBEDDING), Target(None, HEAD)


def with_token_pairs(adapter: LoraAdapter, weights: BaseWeights) -> LoraAdapter:
    """Return `adapter` with a pair in place of every set of token rows; the same where it has none.

    Raises AdapterUnsupported where a module has a pair already or too many tokens, BaseError and StorageError as
    BaseWeights does.
    """
    if not adapter.token_rows:
        return adapter
    pairs = dict(adapter.pairs)
    for target, rows in adapter.token_rows.items():
        change = _change(target, rows, weights)
        _add(pairs, target, rows, change, vocab=weights.llama.vocab)
        if weights.llama.tied and _HEAD not in adapter.token_rows:
            _add(pairs, _HEAD, rows, change, vocab=weights.llama.vocab)
    return replace(adapter, pairs=pairs, token_rows={})


def _change(target: Target, rows: TokenRows, weights: BaseWeights) -> NDArray[np.float32]:
    """New rows less the base's, [k, hidden]."""
    if len(rows.tokens) > MAX_TOKENS:
        message = f"{target.hf_path} has {len(rows.tokens)} trained tokens; {MAX_TOKENS} at most can be carried."
        raise AdapterUnsupported("token_rows_many", message, "Merge the adapter into its base.", param=target.hf_path)
    name = f"{_EMBEDDING.hf_path if weights.llama.tied else target.hf_path}.weight"
    old = np.concatenate([weights.rows(name, token, token + 1) for token in rows.tokens])
    change: NDArray[np.float64] = rows.rows.astype(np.float64) - old
    return change.astype(np.float32)


def _add(
    pairs: dict[Target, LoraPair], target: Target, rows: TokenRows, change: NDArray[np.float32], *, vocab: int
) -> None:
    if target in pairs:
        message = (
            f"{target.hf_path} has factors and replaced rows, and PEFT's result depends on which is wrapped first."
        )
        raise AdapterUnsupported("token_rows", message, "Train one of the two.", param=target.hf_path)
    one_hot = np.zeros((len(rows.tokens), vocab), np.float32)
    one_hot[np.arange(len(rows.tokens)), rows.tokens] = 1.0
    if target == _EMBEDDING:
        pairs[target] = LoraPair(one_hot, np.ascontiguousarray(change.T), 1.0)
    else:
        pairs[target] = LoraPair(change, np.ascontiguousarray(one_hot.T), 1.0)
