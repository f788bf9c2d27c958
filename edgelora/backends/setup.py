"""How a base is opened: the value that the runtime plans and a backend's spec carries out."""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.core.config import KvType, Weights
from edgelora_models.storage import size_text

STEP_TOKENS = 512
"""Tokens in one forward pass at most; a longer prompt is computed in several chunks."""
MAX_RESIDENT = 256
"""Adapters in memory at once at most; the byte budget ends it earlier for all but tiny ones."""
CONTEXTS = 2
"""KV is kept for so many whole contexts, over all sequences."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a base is opened with. A backend that is not tunable chooses threads and weights itself."""

    backend: str
    """The backend's display name."""
    tunable: bool
    """Whether threads and weights are chosen; else the backend does that itself."""
    threads: int
    """Threads of a step of one token."""
    batch_threads: int
    """Threads of every other step."""
    weights: Weights
    kv_type: KvType
    """What KV is kept in; where `kv_native` is set, a type of the width of the base's own."""
    context_length: int
    """Tokens of one sequence at most."""
    kv_token_bytes: int
    measured: bool
    """Whether `edgelora tune` chose any of it."""
    kv_native: bool = False
    """Whether KV is kept in the base's own type."""

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV over all sequences."""
        return CONTEXTS * self.context_length

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV at most, over all sequences."""
        return self.kv_tokens * self.kv_token_bytes

    @property
    def kv_text(self) -> str:
        """The KV in words."""
        each, all_of_them = size_text(self.kv_token_bytes), size_text(self.kv_bytes)
        kind = "in the base's type" if self.kv_native else self.kv_type
        return f"KV {kind}, {each} a token, {all_of_them} for {self.kv_tokens:,} tokens"

    @property
    def threads_text(self) -> str:
        """The threads in words."""
        single = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return single if self.threads == self.batch_threads else f"{single}, {self.batch_threads} for batches"

    def __str__(self) -> str:
        if not self.tunable:
            return f"{self.backend}; {self.kv_text}"
        how = ", measured" if self.measured else ""
        return f"{self.threads_text}, weights {self.weights}{how}; {self.kv_text}"
