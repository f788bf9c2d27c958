"""How a llama.cpp base is opened. Values only: no import of the native library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgelora.core.config import Kernel, KvType, Weights

Method = Literal["hook", "native"]


@dataclass(frozen=True, slots=True)
class BackendOptions:
    context_length: int = 4096
    """Tokens of one sequence at most; never more than the base was made for, nor than `kv_cells`."""
    max_sequences: int = 8
    max_step_tokens: int = 512
    """Tokens of one step at most; the memory for activations grows with it."""
    max_slots: int = 8
    """Adapters attached at once."""
    threads: int | None = None
    """Compute threads of a step of one token; None: one per physical core this process may use."""
    batch_threads: int | None = None
    """Compute threads of every other step; None: as `threads`."""
    weights: Weights = "mapped"
    """mapped: computed with as they stand in the file, so that a start reads nothing but the page cache. repacked:
    copied into a layout of llama.cpp's own, which takes seconds for a large base, and memory once more."""
    kv_type: KvType = "f16"
    """f32 doubles the KV's memory and turns flash attention off: for parity tests."""
    kv_cells: int | None = None
    """Tokens of KV over all sequences; None: twice `context_length`. The library rounds it up to a multiple of 256."""
    max_outputs: int | None = None
    """Tokens of one step whose logits may be wanted; at least one for each sequence, and None: no more."""
    method: Method = "hook"
    """hook: each token's own adapter, by evaluation callback. native: llama.cpp's own LoRA, one adapter a step."""
    kernel: Kernel = "auto"
    """The code that computes the hook's deltas. auto: the native kernel where it was built, numpy otherwise."""
