"""Reading an adapter in edgelora's own layout as a source: every factor bit for bit as it was trained."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.lora.metadata import invocation_of, ours
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_converters.mapped.reader import MappedPair
from edgelora_converters.tensors.dtypes import widened
from edgelora_converters.tensors.row_order import deinterleave
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported
from edgelora_models.gguf_header import read_header
from edgelora_models.modules import EMBEDDING
from edgelora_models.shape import LlamaShape


def read(path: Path, shape: LlamaShape) -> LoraAdapter:
    """Return the adapter in the file at `path`, for a base of `shape`. Raises what `mapped.reader.read` raises, and
    AdapterUnsupported for DoRA: the file has its row scales, and its magnitudes only with the base they were made
    for."""
    mapped = mapped_reader.read(path, shape)
    scaled = next((target for target, pair in mapped.pairs.items() if pair.row_scale is not None), None)
    if scaled is not None:
        message = f"{scaled.hf_path} is a DoRA adapter's, of which the file has the row scales and not the magnitudes."
        raise AdapterUnsupported("dora", message, "Give the PEFT adapter it was made from.", param=scaled.hf_path)
    pairs = {target: pair_of(target, pair, shape) for target, pair in mapped.pairs.items()}
    metadata = ours(read_header(path, error=AdapterCorrupt).metadata)
    digest = hashlib.sha256(mapped.data.data).hexdigest()
    return LoraAdapter(pairs, digest, metadata.get("trained_on"), invocation=invocation_of(metadata))


def pair_of(target: Target, pair: MappedPair, shape: LlamaShape) -> LoraPair:
    """Return a module's factors and bias in Hugging Face row order, widened."""
    heads = target.module.rotary_heads(shape)
    a, b = widened(pair.a), deinterleave(widened(pair.b).T, heads)
    bias = None if pair.bias is None else deinterleave(pair.bias[:, None], heads)[:, 0]
    return LoraPair(
        np.array(a.T if target.module == EMBEDDING else a, order="C"), np.ascontiguousarray(b), pair.scale, bias=bias
    )


def row_scale_of(target: Target, pair: MappedPair, shape: LlamaShape) -> NDArray[np.float32] | None:
    """DoRA's g in Hugging Face row order."""
    if pair.row_scale is None:
        return None
    return deinterleave(pair.row_scale[:, None], target.module.rotary_heads(shape))[:, 0]
