"""Setup."""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.core.config import KvType, Weights
from edgelora_models.storage import size_text

STEP_TOKENS = 512
"""Tokens in one forward pass at most: a long prompt is computed in pieces of this size."""
MAX_RESIDENT = 256
"""Adapters in memory at once at most; the byte budget ends it earlier for all but tiny ones."""
CONTEXTS = 2
"""KV is kept for so many whole contexts, over all sequences."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a base is opened with where something had to be chosen. MLX uses threads and weights its own way."""

    threads: int
    """Of a step of one token."""
    batch_threads: int
    """Of every other step."""
    weights: Weights
    kv_type: KvType
    """In MLX: what is as wide as the base's own type, in which it keeps KV."""
    context_length: int
    """Tokens of one sequence at most."""
    kv_token_bytes: int
    measured: bool
    """Whether `edgelora tune` chose any of it."""
    mlx: bool = False

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV over all sequences."""
        return CONTEXTS * self.context_length

    @property
    def kv_bytes(self) -> int:
        return self.kv_tokens * self.kv_token_bytes

    @property
    def kv_text(self) -> str:
        each, all_of_them = size_text(self.kv_token_bytes), size_text(self.kv_bytes)
        kind = "in the base's type" if self.mlx else self.kv_type
        return f"KV {kind}, {each} a token, {all_of_them} for {self.kv_tokens:,} tokens"

    @property
    def threads_text(self) -> str:
        one = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return one if self.threads == self.batch_threads else f"{one}, {self.batch_threads} for batches"

    def __str__(self) -> str:
        if self.mlx:
            return f"MLX; {self.kv_text}"
        how = ", measured" if self.measured else ""
        return f"{self.threads_text}, weights {self.weights}{how}; {self.kv_text}"
