"""Writing an adapter in the layout the kernel streams: edgelora's own file, to be mapped and used where it lies.

A GGUF container with a type of its own (general.type "edgelora-lora"), so that llama.cpp refuses it and the strict
header reader of this project reads it. For each pair `blk.N.X.a` [rank, in] and `blk.N.X.b` [rank, out] (B transposed,
rows in GGUF order), in the order a step uses them, 64-byte aligned. Values are the source's own: nothing is folded,
and each factor is stored in the narrowest of float16, bfloat16 and float32 that holds all of its values exactly. The
scales stand apart, in `edgelora.scales`, one float32 for each pair.

Layout 2 is the same with more in it: behind its pair a module may have `.row_scale` [out], DoRA's g, and `.bias` [out],
lora_bias without the scale, both float32 and in GGUF row order; and the pairs may be `token_embd.a` [vocab, rank], a
row for each token, with `token_embd.b` [rank, hidden], and `output.a` and `.b`. An adapter that has none of these is
written as layout 1. Reading both back is `mapped.reader`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.gguf.data import write_tensor
from edgelora_converters.lora.adapter import LoraAdapter, Target
from edgelora_converters.lora.fit import EVERY_PART, check_fits, check_parts, check_row_scales, check_scale
from edgelora_converters.tensors.dtypes import DTYPES, Kind, kind_of, stored
from edgelora_converters.tensors.row_order import interleave
from edgelora_models.modules import EMBEDDING, LINEAR_MODULES, OUTER_MODULES
from edgelora_models.shape import LlamaShape
from edgelora_models.storage import staged

if TYPE_CHECKING:
    from gguf import GGUFWriter

SUFFIX = ".lora"
"""Suffix of such files' names. A reader goes by the content."""
KIND = "edgelora-lora"
ARCHITECTURE = "edgelora"
PLAIN_LAYOUT, LAYOUT = 1, 2
"""Versions of the layout; a reader knows exactly these."""
ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector."""

_ORDER = {module: number for number, module in enumerate((*LINEAR_MODULES, *OUTER_MODULES))}


def tensor_path(target: Target) -> str:
    """Return the name of a pair's tensors, without `.a` and `.b`."""
    return target.gguf_path.removesuffix(".weight")


def write(adapter: LoraAdapter, shape: LlamaShape, out: Path, *, provenance: Mapping[str, str]) -> None:
    """Write `adapter` for a base of `shape` to the file `out`, replacing what is there, whole or not at all.

    `provenance` becomes string keys `edgelora.<name>` beside the source digest. The same arguments give the same bytes.
    Raises AdapterIncompatible where a factor does not fit the base, AdapterUnsupported where a scale leaves float32's
    range, for DoRA of an embedding and for DoRA without its row scales, StorageError where the file cannot be written.
    """
    check_fits(adapter, shape)
    check_parts(adapter, to="edgelora's own layout", carried=EVERY_PART)
    check_row_scales(adapter)
    for target, pair in adapter.pairs.items():
        check_scale(target, pair)
    with staged(out) as temporary:
        _write_file(temporary, adapter, shape, {**provenance, "source_digest": adapter.source_digest, "fold": "none"})


def _write_file(path: Path, adapter: LoraAdapter, shape: LlamaShape, facts: Mapping[str, str]) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    order = sorted(adapter.pairs, key=lambda target: (target.depth, _ORDER[target.module]))
    kinds = {target: (kind_of(pair.a), kind_of(pair.b)) for target, pair in adapter.pairs.items()}
    writer = GGUFWriter(path, ARCHITECTURE)
    try:
        _add_header(writer, facts, [adapter.pairs[target].scale for target in order], layout=layout_of(adapter))
        # Sizes first, values one by one: a large adapter is never in memory twice.
        for target in order:
            for part, form, kind in _forms(adapter, target, kinds[target]):
                dtype, size = np.dtype(DTYPES[kind]), math.prod(form)
                name = f"{tensor_path(target)}.{part}"
                writer.add_tensor_info(name, form, dtype, size * dtype.itemsize, GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for target in order:
            for values in _values(adapter, target, kinds[target], shape):
                write_tensor(writer, values)
    finally:
        writer.close()


def layout_of(adapter: LoraAdapter) -> int:
    """PLAIN_LAYOUT where it says everything, so that older readers know the file."""
    more = any(target.layer is None or pair.bias is not None for target, pair in adapter.pairs.items())
    return LAYOUT if more or adapter.row_scales else PLAIN_LAYOUT


def _forms(
    adapter: LoraAdapter, target: Target, kinds: tuple[Kind, Kind]
) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
    """Name, shape and type of each of a module's tensors."""
    pair = adapter.pairs[target]
    yield "a", pair.a.shape[::-1] if target.module == EMBEDDING else pair.a.shape, kinds[0]
    yield "b", pair.b.shape[::-1], kinds[1]
    if target in adapter.row_scales:
        yield "row_scale", adapter.row_scales[target].shape, "F32"
    if pair.bias is not None:
        yield "bias", pair.bias.shape, "F32"


def _values(
    adapter: LoraAdapter, target: Target, kinds: tuple[Kind, Kind], shape: LlamaShape
) -> Iterator[NDArray[Any]]:
    """Yield the values of each tensor of a module."""
    pair, heads = adapter.pairs[target], target.module.rotary_heads(shape)
    yield stored(np.ascontiguousarray(pair.a.T) if target.module == EMBEDDING else pair.a, kinds[0])
    yield stored(np.ascontiguousarray(interleave(pair.b, heads).T), kinds[1])
    if target in adapter.row_scales:
        yield interleave(adapter.row_scales[target][:, None], heads)[:, 0]
    if pair.bias is not None:
        yield interleave(pair.bias[:, None], heads)[:, 0]


def _add_header(writer: GGUFWriter, facts: Mapping[str, str], scales: list[float], *, layout: int) -> None:
    writer.add_string("general.type", KIND)
    writer.add_custom_alignment(ALIGNMENT)
    writer.add_uint32("edgelora.layout", layout)
    writer.add_array("edgelora.scales", scales)
    for name, value in sorted(facts.items()):
        writer.add_string(f"edgelora.{name}", value)
