"""Reading an adapter in edgelora's own layout (see `mapped`), for the gate and for the runtime: mapped, not copied.

Owns every check between such a file and the kernel that streams it. All of them are of the header: its length, every
tensor's place, type and widths against the base, every scale. The values were compared with their source when the file
was made, and are not read again: a NaN put there since would reach the logits, `edgelora doctor` compares digests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.dtypes import DTYPES
from edgelora_converters.lora import Target
from edgelora_converters.mapped import ALIGNMENT, ARCHITECTURE, KIND, LAYOUT, tensor_path
from edgelora_converters.mapping import Bytes, map_bytes, prefetch
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.files import quoted, regular_size, unreadable
from edgelora_models.gguf_header import GgufHeader, GgufTensor, read_open
from edgelora_models.gguf_types import GGML_TYPES
from edgelora_models.modules import BY_GGUF
from edgelora_models.shape import LlamaShape

_REMEDY_BASE = "Use the base it was made for; its conversion for this one is made from the PEFT adapter."
_REMEDY_AGAIN = "Delete the file: it is made again from the adapter when it is next used."


@dataclass(frozen=True, slots=True, eq=False)
class MappedPair:
    """One module's factors where they lie: views of the mapping, which lives as long as they do."""

    a: NDArray[Any]
    """[rank, in]: float32, float16, or bfloat16 as the uint16 of its bits."""
    b: NDArray[Any]
    """[rank, out], rows in GGUF order, of the same types: delta = scale * b.T @ a."""
    scale: float
    """A float32's value, finite."""


@dataclass(frozen=True, slots=True, eq=False)
class MappedAdapter:
    data: Bytes
    """The whole file."""
    pairs: Mapping[Target, MappedPair]
    """In the order of the file, at least one."""


def read(path: Path, shape: LlamaShape) -> MappedAdapter:
    """Map and check an adapter for a base of `shape`. Touches no page but the header's.

    Raises AdapterCorrupt for an unsound file, AdapterIncompatible for another base's layers or widths,
    AdapterUnsupported for a file of another kind or layout, StorageError where the disk fails.
    """
    regular_size(path, error=AdapterCorrupt)
    try:
        # One open file for the header and the map: the name may mean another file a moment later.
        with path.open("rb") as file:
            header = read_open(file, name=path.name, error=AdapterCorrupt)
            prefetch(file)
            data = map_bytes(file)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if data.size != header.file_size:
        raise _corrupt("changed", "its size changed while it was opened")
    _check_kind(header)
    return MappedAdapter(data, _pairs(header, data, shape))


def _check_kind(header: GgufHeader) -> None:
    found = (header.metadata.get("general.type"), header.metadata.get("general.architecture"))
    if found != (KIND, ARCHITECTURE):
        what = f"The file's general.type is {quoted(str(found[0]))}, not {KIND!r}."
        raise AdapterUnsupported("not_mapped", what, _REMEDY_AGAIN, param="general.type")
    layout = header.metadata.get("edgelora.layout")
    if layout != LAYOUT:
        what = f"The file has the layout {quoted(str(layout))}; {LAYOUT} is read."
        raise AdapterUnsupported("mapped_layout", what, _REMEDY_AGAIN, param="edgelora.layout")
    if header.alignment % ALIGNMENT:
        raise _corrupt("bad_alignment", f"its tensors are aligned to {header.alignment} bytes, not {ALIGNMENT}")


def _pairs(header: GgufHeader, data: Bytes, shape: LlamaShape) -> dict[Target, MappedPair]:
    names = list(header.tensors)
    scales = _scales(header, count=len(names) // 2)
    if not names or len(names) % 2:
        raise _corrupt("incomplete_pair", f"it has {len(names)} tensors, which are no pairs")
    pairs: dict[Target, MappedPair] = {}
    for first, second, scale in zip(names[::2], names[1::2], scales, strict=True):
        target = _target(first, second, shape)
        a, b = header.tensors[first], header.tensors[second]
        _check_shapes(target, a, b, shape)
        pairs[target] = MappedPair(_view(data, first, a), _view(data, second, b), scale)
    return pairs


def _scales(header: GgufHeader, *, count: int) -> list[float]:
    scales = header.metadata.get("edgelora.scales")
    if not isinstance(scales, list) or header.types["edgelora.scales"] != "[f32]" or len(scales) != count:
        raise _corrupt("bad_scales", f"its edgelora.scales are not one f32 for each of {count} pairs")
    values = [float(scale) for scale in scales]
    if not all(map(math.isfinite, values)):
        raise _corrupt("bad_scales", "a scale is not finite")
    return values


def _target(first: str, second: str, shape: LlamaShape) -> Target:
    match = re.fullmatch(r"blk\.(0|[1-9]\d{0,5})\.(\w+)\.a", first, flags=re.ASCII)
    if match is None or match[2] not in BY_GGUF:
        raise _corrupt("unknown_tensor", f"the tensor {quoted(first)} is no factor of a Llama's module", first)
    layer = int(match[1])
    target = Target(layer, BY_GGUF[match[2]])
    if second != f"{tensor_path(target)}.b":
        raise _corrupt("incomplete_pair", f"{first} is followed by {quoted(second)}", first)
    if layer >= shape.layers:
        what = f"The tensor {first} is for layer {layer}; the base has {shape.layers} layers."
        raise AdapterIncompatible("layer_mismatch", what, _REMEDY_BASE, param=first)
    return target


def _check_shapes(target: Target, a: GgufTensor, b: GgufTensor, shape: LlamaShape) -> None:
    name = tensor_path(target)
    # ggml's order, row length first: a is (in, rank), b is (out, rank).
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[1]:
        raise _corrupt("rank_mismatch", f"{name} has the factors {list(a.shape)} and {list(b.shape)}", name)
    found, wanted = (a.shape[0], b.shape[0]), (target.module.in_features(shape), target.module.out_features(shape))
    if found != wanted:
        what = f"{name} maps {found[0]} to {found[1]} in the adapter and {wanted[0]} to {wanted[1]} in the base."
        raise AdapterIncompatible("shape_mismatch", what, _REMEDY_BASE, param=name)


def _view(data: Bytes, name: str, tensor: GgufTensor) -> NDArray[Any]:
    """The reader of the header made sure that the tensor lies within the file."""
    kind = GGML_TYPES[tensor.type].name
    if kind not in DTYPES:
        raise _corrupt("tensor_dtype", f"the tensor {name} is stored as {kind}", name)
    return data[tensor.offset : tensor.offset + tensor.nbytes].view(np.dtype(DTYPES[kind])).reshape(tensor.shape[::-1])


def _corrupt(code: str, what: str, param: str | None = None) -> AdapterCorrupt:
    return AdapterCorrupt(code, f"The file is not a sound adapter: {what}.", _REMEDY_AGAIN, param=param)
