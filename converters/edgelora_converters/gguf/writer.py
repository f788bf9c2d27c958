"""Writing an adapter as GGUF. Owns the layout of the file; `gguf.adapter_reader` reads it back and `convert.verify`
compares.

The layout is llama.cpp's for adapters (general.type "adapter", adapter.type "lora", pairs `blk.N.X.weight.lora_a`
[rank, in] and `.lora_b` [out, rank], f32), with one choice of ours: each module's whole scale is folded into its B and
`adapter.lora.alpha` is 0.0, which llama.cpp reads as "multiply by the caller's scale alone". So one file is exact for
rsLoRA and for rank and alpha patterns, which a single alpha cannot express. The embedding's `token_embd.weight.lora_a`
is [vocab, rank], a row for each token. DoRA and lora_bias have no place in the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.gguf.data import write_tensor
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.lora.fit import check_fits, check_parts, check_untied, folded_b
from edgelora_converters.lora.metadata import PROVENANCE_PREFIX
from edgelora_converters.tensors.row_order import interleave
from edgelora_models.modules import EMBEDDING
from edgelora_models.shape import LlamaShape
from edgelora_models.storage import staged

if TYPE_CHECKING:
    from gguf import GGUFWriter


INVOCATION_KEY = "adapter.alora.invocation_tokens"
"""llama.cpp's key for an aLoRA; its server gates by it, its library does not."""


def write(adapter: LoraAdapter, shape: LlamaShape, out: Path, *, provenance: Mapping[str, str]) -> None:
    """Write `adapter` for a base of `shape` to the file `out`, replacing what is there, whole or not at all.

    `provenance` becomes string keys `edgelora.<name>` beside the source digest and the fold. The same arguments give
    the same bytes. Raises AdapterIncompatible where a factor does not fit the base, AdapterUnsupported where a scale
    leaves float32's range, for DoRA and lora_bias, and for embedding and head of a tied base, StorageError where the
    file cannot be written.
    """
    check_fits(adapter, shape)
    check_parts(adapter, to="a GGUF adapter", carried=("embedding_lora", "head_lora"))
    check_untied(adapter, shape, to="a GGUF adapter")
    facts = {**provenance, "source_digest": adapter.source_digest, "fold": "scale into lora_b"}
    with staged(out) as temporary:
        _write_file(temporary, adapter, shape, facts)


def _write_file(path: Path, adapter: LoraAdapter, shape: LlamaShape, facts: Mapping[str, str]) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    try:
        _add_header(writer, facts, adapter.invocation)
        # Sizes first, values one by one: a large adapter is never in memory twice.
        for name, target, half in _tensor_order(adapter):
            pair = adapter.pairs[target]
            factor = pair.b if half == "lora_b" else pair.a.T if target.module == EMBEDDING else pair.a
            writer.add_tensor_info(name, factor.shape, np.dtype(np.float32), factor.size * 4)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, target, half in _tensor_order(adapter):
            write_tensor(writer, _values(target, adapter.pairs[target], half, shape))
    finally:
        writer.close()


def _add_header(writer: GGUFWriter, facts: Mapping[str, str], invocation: tuple[int, ...]) -> None:
    from gguf import GGUFValueType

    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    if invocation:
        # llama.cpp takes an array of u32 and nothing else.
        writer.add_key_value(INVOCATION_KEY, list(invocation), GGUFValueType.ARRAY, sub_type=GGUFValueType.UINT32)
    for name, value in sorted(facts.items()):
        writer.add_string(PROVENANCE_PREFIX + name, value)


def _tensor_order(adapter: LoraAdapter) -> Iterator[tuple[str, Target, str]]:
    for target in sorted(adapter.pairs, key=lambda t: (t.depth, t.module.gguf)):
        for half in ("lora_a", "lora_b"):
            yield f"{target.gguf_path}.{half}", target, half


def _values(target: Target, pair: LoraPair, half: str, shape: LlamaShape) -> NDArray[np.float32]:
    if half == "lora_a":
        return np.ascontiguousarray(pair.a.T) if target.module == EMBEDDING else pair.a
    return interleave(folded_b(target, pair), target.module.rotary_heads(shape))
