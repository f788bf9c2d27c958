"""A LoRA adapter as pure values, between the reader (PEFT) and the writers (GGUF, MLX). Owns no file and no format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgelora_models.modules import LinearModule


@dataclass(frozen=True, slots=True)
class Target:
    """One linear module of one layer."""

    layer: int
    module: LinearModule

    @property
    def hf_path(self) -> str:
        return self.module.hf_path(self.layer)


@dataclass(frozen=True, slots=True, eq=False)
class LoraPair:
    """The two factors of one module's delta, in Hugging Face row order: delta = scale * b @ a."""

    a: NDArray[np.float32]
    """[rank, in_features]"""
    b: NDArray[np.float32]
    """[out_features, rank]"""
    scale: float
    """The whole multiplier: alpha/rank, or alpha/sqrt(rank) with rsLoRA, patterns applied."""

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    def folded_b(self) -> NDArray[np.float32]:
        """scale * b, multiplied in float64 and rounded once: [out_features, rank]."""
        return (self.b.astype(np.float64) * self.scale).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class LoraAdapter:
    """A whole adapter. `source_digest` is the sha256 hex of its PEFT files (see peft_folder.source_digest)."""

    pairs: Mapping[Target, LoraPair]
    source_digest: str
    base_model: str | None
    """What the adapter's config calls its base; a hint for people, never trusted."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Facts worth showing: rank, alpha, target_modules, use_rslora, peft_version."""
    invocation: tuple[int, ...] = ()
    """aLoRA: the token ids it acts from on, in a prompt that holds them. Empty is plain LoRA."""

    @property
    def max_rank(self) -> int:
        return max(pair.rank for pair in self.pairs.values())

    @property
    def parameters(self) -> int:
        return sum(pair.a.size + pair.b.size for pair in self.pairs.values())
