"""Writing an adapter in the layout the kernel streams: edgelora's own file, to be mapped and used where it lies.

A GGUF container with a type of its own (general.type "edgelora-lora"), so that llama.cpp refuses it and the strict
header reader of this project reads it. For each pair `blk.N.X.a` [rank, in] and `blk.N.X.b` [rank, out] (B transposed,
rows in GGUF order), in the order a step uses them, 64-byte aligned. Values are the source's own: nothing is folded,
and each factor is stored in the narrowest of float16, bfloat16 and float32 that holds all of its values exactly. The
scales stand apart, in `edgelora.scales`, one float32 for each pair. Reading it back is `mapped_adapter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgelora_converters.dtypes import DTYPES, kind_of, stored
from edgelora_converters.fit import check_fits, check_parts, check_scale
from edgelora_converters.gguf_data import write_tensor
from edgelora_converters.lora import LoraAdapter, Target
from edgelora_converters.rows import interleave
from edgelora_converters.staging import staged
from edgelora_models.modules import LINEAR_MODULES, OUTER_MODULES
from edgelora_models.shape import LlamaShape

if TYPE_CHECKING:
    from gguf import GGUFWriter

SUFFIX = ".lora"
"""Of such files' names. A reader goes by what stands in them."""
KIND = "edgelora-lora"
ARCHITECTURE = "edgelora"
LAYOUT = 1
"""Version of this layout; a reader knows exactly one."""
ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector."""

_ORDER = {module: number for number, module in enumerate((*LINEAR_MODULES, *OUTER_MODULES))}


def tensor_path(target: Target) -> str:
    """What a pair's tensors are called, without `.a` and `.b`."""
    return target.gguf_path.removesuffix(".weight")


def write(adapter: LoraAdapter, shape: LlamaShape, out: Path, *, provenance: Mapping[str, str]) -> None:
    """Write `adapter` for a base of `shape` to the file `out`, replacing what is there, whole or not at all.

    `provenance` becomes string keys `edgelora.<name>` beside the source digest. The same arguments give the same bytes.
    Raises AdapterIncompatible where a factor does not fit the base, AdapterUnsupported where a scale leaves float32's
    range, StorageError where the file cannot be written.
    """
    check_fits(adapter, shape)
    check_parts(adapter, to="edgelora's own layout", carried=())
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
        _add_header(writer, facts, [adapter.pairs[target].scale for target in order])
        # Sizes first, values one by one: a large adapter is never in memory twice.
        for target in order:
            pair, name = adapter.pairs[target], tensor_path(target)
            for half, form, kind in zip("ab", (pair.a.shape, pair.b.shape[::-1]), kinds[target], strict=True):
                dtype, size = np.dtype(DTYPES[kind]), form[0] * form[1]
                writer.add_tensor_info(f"{name}.{half}", form, dtype, size * dtype.itemsize, GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for target in order:
            pair, (kind_a, kind_b) = adapter.pairs[target], kinds[target]
            write_tensor(writer, stored(pair.a, kind_a))
            b = interleave(pair.b, target.module.rotary_heads(shape))
            write_tensor(writer, stored(np.ascontiguousarray(b.T), kind_b))
    finally:
        writer.close()


def _add_header(writer: GGUFWriter, facts: Mapping[str, str], scales: list[float]) -> None:
    writer.add_string("general.type", KIND)
    writer.add_custom_alignment(ALIGNMENT)
    writer.add_uint32("edgelora.layout", LAYOUT)
    writer.add_array("edgelora.scales", scales)
    for name, value in sorted(facts.items()):
        writer.add_string(f"edgelora.{name}", value)
