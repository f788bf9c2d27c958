"""Reading an adapter in edgelora's own layout as a source: every factor bit for bit as it was trained."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from edgelora_converters import mapped_adapter
from edgelora_converters.dtypes import widened
from edgelora_converters.lora import LoraAdapter, LoraPair, Target
from edgelora_converters.mapped_adapter import MappedPair
from edgelora_converters.rows import deinterleave
from edgelora_converters.said import invocation_of, ours
from edgelora_models.errors import AdapterCorrupt
from edgelora_models.gguf_header import read_header
from edgelora_models.shape import LlamaShape


def read(path: Path, shape: LlamaShape) -> LoraAdapter:
    """The adapter in the file at `path`, for a base of `shape`. Raises what `mapped_adapter.read` raises."""
    mapped = mapped_adapter.read(path, shape)
    pairs = {target: _pair(target, pair, shape) for target, pair in mapped.pairs.items()}
    said = ours(read_header(path, error=AdapterCorrupt).metadata)
    digest = hashlib.sha256(mapped.data.data).hexdigest()
    return LoraAdapter(pairs, digest, said.get("trained_on"), invocation=invocation_of(said))


def _pair(target: Target, pair: MappedPair, shape: LlamaShape) -> LoraPair:
    b = deinterleave(widened(pair.b).T, target.module.rotary_heads(shape))
    return LoraPair(np.array(widened(pair.a)), np.ascontiguousarray(b), pair.scale)
