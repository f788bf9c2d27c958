"""A LoRA adapter as pure values, between the reader (PEFT) and the writers (GGUF, MLX). Owns no file and no format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgelora_models.modules import EMBEDDING, LinearModule

MAX_RANK = 1_024


_BEHIND = 1 << 30


@dataclass(frozen=True, slots=True)
class Target:
    """A linear module of one layer; or the embedding or the head, which have no layer."""

    layer: int | None
    """Number of the layer; None for EMBEDDING and HEAD of edgelora_models.modules."""
    module: LinearModule

    @property
    def hf_path(self) -> str:
        return self.module.hf_path(self.layer)

    @property
    def gguf_path(self) -> str:
        return self.module.gguf_path(self.layer)

    @property
    def depth(self) -> int:
        """Its place in a forward pass: the embedding's is -1, a layer's its number, the head's behind all layers."""
        if self.layer is not None:
            return self.layer
        return -1 if self.module == EMBEDDING else _BEHIND


@dataclass(frozen=True, slots=True, eq=False)
class LoraPair:
    """A module's delta, in Hugging Face row order: y gains scale * (b @ a @ x + bias); with DoRA's magnitude all of y
    is scaled by rows, see LoraAdapter.row_scales.

    The embedding's x is one-hot: what it looks up for token t gains scale * b @ a[:, t].
    """

    a: NDArray[np.float32]
    """[rank, in_features]; of the embedding [rank, vocab]"""
    b: NDArray[np.float32]
    """[out_features, rank]; of the embedding [hidden, rank]"""
    scale: float
    """The whole multiplier: alpha/rank, or alpha/sqrt(rank) with rsLoRA, patterns applied."""
    magnitude: NDArray[np.float32] | None = None
    """[out_features]: DoRA's m as PEFT stores it; None without DoRA."""
    bias: NDArray[np.float32] | None = None
    """[out_features]: PEFT's lora_B.bias, without the scale; None without lora_bias."""

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def parameters(self) -> int:
        return sum(part.size for part in (self.a, self.b, self.magnitude, self.bias) if part is not None)

    def folded_b(self) -> NDArray[np.float32]:
        """scale * b, multiplied in float64 and rounded once: [out_features, rank]."""
        with np.errstate(over="ignore"):
            narrow = np.float32(self.scale)
        if float(narrow) == self.scale:
            # A float64 holds the product of two float32 exactly, so one rounding is what float32's product has too.
            return self.b * narrow
        return (self.b.astype(np.float64) * self.scale).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """Rows of the embedding or the head that the adapter replaces (PEFT's trainable_token_indices)."""

    tokens: tuple[int, ...]
    """Each once."""
    rows: NDArray[np.float32]
    """[len(tokens), hidden]: what stands there with the adapter."""


@dataclass(frozen=True, slots=True, eq=False)
class LoraAdapter:
    """A whole adapter. `source_digest` is the sha256 hex of its PEFT files (see `peft.folder.source_digest`)."""

    pairs: Mapping[Target, LoraPair]
    source_digest: str
    base_model: str | None
    """The base's name in the adapter's configuration; a hint for people, never trusted."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Facts worth showing: rank, alpha, target_modules, use_rslora, peft_version, base_class."""
    invocation: tuple[int, ...] = ()
    """aLoRA: the token ids it acts from on, in a prompt that holds them. Empty is plain LoRA."""
    row_scales: Mapping[Target, NDArray[np.float32]] = field(default_factory=dict)
    """DoRA: for every pair with a magnitude, g = magnitude / ||W + scale * b @ a|| by row, [out_features], Hugging Face
    row order: the module's output is g * (W x + scale * b @ a @ x). Empty as long as the base's W is not known."""
    token_rows: Mapping[Target, TokenRows] = field(default_factory=dict)
    """For the embedding and the head, rows replaced; as long as the base's are not known, then they are pairs."""

    @property
    def max_rank(self) -> int:
        return max(pair.rank for pair in self.pairs.values())

    @property
    def parameters(self) -> int:
        trained = sum(pair.parameters for pair in self.pairs.values())
        return trained + sum(rows.rows.size for rows in self.token_rows.values())
