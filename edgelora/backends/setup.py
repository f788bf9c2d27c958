"""How a base is opened: the value that the runtime plans and a backend's spec carries out."""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.core.config import KvType, Weights
from edgelora_models.storage import size_text

STEP_TOKENS = 512
"""Maximum tokens in one forward pass; a longer prompt is computed in several chunks."""
MAX_RESIDENT = 256
"""Maximum number of adapters in memory; except for tiny ones, the byte budget is the tighter limit."""
CONTEXTS = 2
"""Number of whole contexts that the KV holds, over all sequences."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a base is opened with. A backend that is not tunable chooses threads and weights itself."""

    backend: str
    """The backend's display name."""
    tunable: bool
    """True if threads and weights are configurable; otherwise the backend chooses them."""
    threads: int
    """Number of threads of a step of one token."""
    batch_threads: int
    """Number of threads of every other step."""
    weights: Weights
    kv_type: KvType
    """What KV is kept in; where `kv_native` is set, a type of the width of the base's own."""
    context_length: int
    """Maximum tokens of one sequence."""
    kv_token_bytes: int
    measured: bool
    """True if `edgelora tune` chose any of it."""
    kv_native: bool = False
    """Whether KV is kept in the base's own type."""

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV over all sequences."""
        return CONTEXTS * self.context_length

    @property
    def kv_bytes(self) -> int:
        """Maximum bytes of KV over all sequences."""
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
