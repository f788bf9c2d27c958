"""The torch-free oracle: a Llama forward pass in plain numpy, slow and obvious, that other backends are tested against.

Weights are in Hugging Face names and row order. No KV cache, no sampling, no quantized arithmetic; loading a base is
`oracle_base`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, Target
from edgelora_converters.lora.fit import folded_bias
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape

Array = NDArray[Any]
"""float32 or float64"""


class Delta(NamedTuple):
    """A module's delta: y becomes row_scale * (y + b @ a @ x) + bias. The embedding's x is one-hot."""

    a: Array
    """[rank, in]; of the embedding [rank, vocab]."""
    b: Array
    """[out, rank], the whole scale folded in."""
    bias: Array | None = None
    """[out], the scale folded in."""
    row_scale: Array | None = None
    """[out]: DoRA's g."""


Deltas = Mapping[Target, Delta | tuple[Array, Array]]

Precision = Literal["float32", "float64"]

_EMBEDDING, _HEAD = Target(None, EMBEDDING), Target(None, HEAD)


@dataclass(frozen=True, slots=True)
class Part:
    """An adapter among several that act on a sequence, each with its own weight, from its own position on."""

    deltas: Deltas
    weight: float = 1.0
    start: int = 0


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The configuration that the forward pass needs beside the weights."""

    shape: LlamaShape
    norm_epsilon: float
    rope_theta: float
    rope_factors: tuple[float, ...] | None = None
    """Divisor of each rotary frequency, head_dim / 2 of them (see `llama3_factors`); None: plain RoPE."""


def llama3_factors(
    *, theta: float, head_dim: int, factor: float, low: float, high: float, original_context: int
) -> tuple[float, ...]:
    """Llama 3.1's divisors of the rotary frequencies, head_dim / 2 of them.

    Waves shorter than original_context / `high` stay as they are, waves longer than original_context / `low` are
    stretched by `factor`, those between are blended linearly in the number of turns they make in the original context.
    """
    factors = []
    for index in range(0, head_dim, 2):
        turns = original_context * theta ** (-index / head_dim) / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1.0 / (kept + (1.0 - kept) / factor))
    return tuple(factors)


def deltas_of(adapter: LoraAdapter) -> Deltas:
    """Return every module's delta of an adapter, DoRA's with its row scales."""
    return {
        target: Delta(pair.a, pair.folded_b(), folded_bias(target, pair), adapter.row_scales.get(target))
        for target, pair in adapter.pairs.items()
    }


@dataclass(frozen=True, slots=True)
class Case:
    """A sequence to compute, and what acts on it."""

    tokens: Sequence[int]
    parts: Sequence[Part] = ()


class NumpyLlama:
    """A Llama whose weights are asked for by name, one at a time. `dtype` is that of every product."""

    def __init__(self, weights: Mapping[str, Array], config: LlamaConfig, *, dtype: Precision = "float32") -> None:
        self.config = config
        self.dtype: np.dtype[np.floating[Any]] = np.dtype(dtype)
        self._weights = weights

    def logits(self, tokens: Sequence[int], deltas: Deltas | Sequence[Part] | None = None) -> Array:
        """Logits after every token, [len(tokens), vocab], with the deltas added to their modules' outputs."""
        parts = [Part(deltas)] if isinstance(deltas, Mapping) else deltas or ()
        return self.logits_of([Case(tokens, parts)])[0]

    def logits_of(self, cases: Sequence[Case], *, progress: Callable[[int], None] | None = None) -> list[Array]:
        """Return `logits` of several cases side by side, layer by layer, so that each weight is asked for by one layer
        only.

        `progress` is called with the number of layers done.
        """
        states = [self._begun(case) for case in cases]
        for layer in range(self.config.shape.layers):
            states = [self._layer(layer, x, case.parts) for x, case in zip(states, cases, strict=True)]
            if progress is not None:
                progress(layer + 1)
        states = [self._norm(x, "model.norm") for x in states]
        logits = self._heads_of(states)
        return [self._adapted(_HEAD, y, x, case.parts) for y, x, case in zip(logits, states, cases, strict=True)]

    def _weight(self, name: str) -> Array:
        return self._weights[name].astype(self.dtype, copy=False)

    def _begun(self, case: Case) -> Array:
        tokens = np.asarray(case.tokens)
        return self._changed(_EMBEDDING, self._embedded(case), lambda a, start: a[:, tokens[start:]].T, case.parts)

    def _embedded(self, case: Case) -> Array:
        """Return the base's own rows."""
        rows: Array = self._weight("model.embed_tokens.weight")[np.asarray(case.tokens)]
        return rows

    def _layer(self, layer: int, x: Array, parts: Sequence[Part]) -> Array:
        rotation = self._rotation(len(x))
        x = x + self._attention(layer, self._norm(x, f"model.layers.{layer}.input_layernorm"), rotation, parts)
        return x + self._mlp(layer, self._norm(x, f"model.layers.{layer}.post_attention_layernorm"), parts)

    @property
    def head(self) -> str:
        """The weight that logits are made with."""
        return "model.embed_tokens.weight" if self.config.shape.tied else "lm_head.weight"

    def _heads_of(self, states: Sequence[Array]) -> list[Array]:
        """Return each case's logits from its last normed state."""
        return [x @ self._weight(self.head).T for x in states]

    def _norm(self, x: Array, name: str) -> Array:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        normed: Array = x / np.sqrt(mean_square + self.config.norm_epsilon)
        normed *= self._weight(f"{name}.weight")
        return normed

    def _linear(self, layer: int, name: str, x: Array, parts: Sequence[Part]) -> Array:
        target = Target(layer, BY_HF[name])
        y: Array = x @ self._weight(f"{target.hf_path}.weight").T
        return self._adapted(target, y, x, parts)

    def _adapted(self, target: Target, y: Array, x: Array, parts: Sequence[Part]) -> Array:
        """y [tokens, out], the product of x [tokens, in], with what the parts change of it."""
        return self._changed(target, y, lambda a, start: x[start:] @ a.T, parts)

    def _changed(
        self, target: Target, y: Array, products: Callable[[Array, int], Array], parts: Sequence[Part]
    ) -> Array:
        """Return y with the changes of all parts; `products` gives a's part of a delta, [tokens from a start on, rank].
        Every part's change is of y alone."""
        result = y.copy()
        for part in parts:
            if target not in part.deltas:
                continue
            delta, base = Delta(*part.deltas[target]), y[part.start :]
            a, b = (factor.astype(self.dtype, copy=False) for factor in (delta.a, delta.b))
            change: Array = products(a, part.start) @ b.T
            if delta.row_scale is not None:
                change = delta.row_scale.astype(self.dtype) * (base + change) - base
            if delta.bias is not None:
                change = change + delta.bias.astype(self.dtype)
            result[part.start :] += part.weight * change
        return result

    def _attention(self, layer: int, x: Array, rotation: tuple[Array, Array], parts: Sequence[Part]) -> Array:
        shape = self.config.shape
        q = _rotate(_heads(self._linear(layer, "self_attn.q_proj", x, parts), shape.heads), rotation)
        k = _rotate(_heads(self._linear(layer, "self_attn.k_proj", x, parts), shape.kv_heads), rotation)
        v = _heads(self._linear(layer, "self_attn.v_proj", x, parts), shape.kv_heads)
        # Each key/value head serves heads / kv_heads neighbouring query heads.
        k, v = (np.repeat(heads, shape.heads // shape.kv_heads, axis=0) for heads in (k, v))
        scores = q @ k.swapaxes(1, 2) / math.sqrt(shape.head_dim)
        later = np.triu(np.ones(scores.shape[1:], bool), k=1)
        mixed = _softmax(np.where(later, -np.inf, scores)) @ v
        return self._linear(layer, "self_attn.o_proj", mixed.swapaxes(0, 1).reshape(len(x), shape.q_width), parts)

    def _mlp(self, layer: int, x: Array, parts: Sequence[Part]) -> Array:
        gate = self._linear(layer, "mlp.gate_proj", x, parts)
        up = self._linear(layer, "mlp.up_proj", x, parts)
        return self._linear(layer, "mlp.down_proj", gate * (1 + np.tanh(gate / 2)) / 2 * up, parts)

    def _rotation(self, length: int) -> tuple[Array, Array]:
        """cos and sin of every position's angles, [length, head_dim / 2]."""
        head_dim = self.config.shape.head_dim
        frequencies = self.config.rope_theta ** (-np.arange(0, head_dim, 2) / head_dim)
        if self.config.rope_factors is not None:
            frequencies = frequencies / np.asarray(self.config.rope_factors)
        angles = np.outer(np.arange(length), frequencies)
        return np.cos(angles).astype(self.dtype), np.sin(angles).astype(self.dtype)


def _heads(x: Array, count: int) -> Array:
    """Reshape [tokens, count * head_dim] to [count, tokens, head_dim]."""
    return x.reshape(len(x), count, -1).swapaxes(0, 1)


def _rotate(heads: Array, rotation: tuple[Array, Array]) -> Array:
    """Turn each pair (i, i + head_dim / 2) of [count, tokens, head_dim] by its angle."""
    cos, sin = rotation
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _softmax(scores: Array) -> Array:
    weights: Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights
