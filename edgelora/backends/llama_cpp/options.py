"""How a llama.cpp base is opened. Values only: no import of the native library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgelora.core.config import Kernel, KvType, Weights

Method = Literal["hook", "native"]


@dataclass(frozen=True, slots=True)
class BackendOptions:
    context_length: int = 4096
    """Maximum tokens of one sequence, at most the base's trained context and `kv_cells`."""
    max_sequences: int = 8
    max_step_tokens: int = 512
    """Maximum tokens of one step; the memory for activations grows with it."""
    max_slots: int = 8
    """Maximum number of adapters attached at once."""
    threads: int | None = None
    """Compute threads of a step of one token; None for one per usable physical core."""
    batch_threads: int | None = None
    """Compute threads of every other step; None for the same as `threads`."""
    weights: Weights = "mapped"
    """mapped: computed with as they stand in the file, so that a start reads nothing but the page cache. repacked:
    copied into a layout of llama.cpp's own, which takes seconds for a large base, and memory once more."""
    kv_type: KvType = "f16"
    """f32 doubles the KV's memory and turns flash attention off: for parity tests."""
    kv_cells: int | None = None
    """Number of KV cells over all sequences; None for twice `context_length`.

    llama.cpp rounds up to multiples of 256.
    """
    max_outputs: int | None = None
    """Maximum number of tokens of one step with logits; at least one per sequence, which None stands for."""
    method: Method = "hook"
    """hook: each token's own adapters, by evaluation callback.

    native: llama.cpp's own LoRA, the same for a whole step.
    """
    kernel: Kernel = "auto"
    """Implementation of the hook's deltas. auto: the native kernel if it was built, otherwise numpy."""
