"""Reading an adapter in edgelora's own layout (see `mapped`), for the gate and for the runtime: mapped, not copied.

Owns every check between such a file and the kernel that streams it. All of them are of the header: its length, every
tensor's place, type and widths against the base, every scale. The values were compared with their source when the file
was made, and are not read again: a NaN put there since would reach the logits, `edgelora doctor` compares digests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import Target
from edgelora_converters.mapped.mapping import Bytes, map_bytes, prefetch
from edgelora_converters.mapped.writer import ALIGNMENT, ARCHITECTURE, KIND, LAYOUT, PLAIN_LAYOUT
from edgelora_converters.tensors.dtypes import DTYPES
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.files import quoted, regular_size, unreadable
from edgelora_models.gguf_header import GgufHeader, GgufTensor, read_open
from edgelora_models.gguf_types import GGML_TYPES
from edgelora_models.modules import BY_GGUF, EMBEDDING, OUTER_MODULES
from edgelora_models.shape import LlamaShape

_PARTS = ("a", "b", "row_scale", "bias")
"""Tensors of a module, in the order of the file."""
_OUTER = {module.gguf: module for module in OUTER_MODULES}

_REMEDY_BASE = "Use the base it was made for; its conversion for this one is made from the PEFT adapter."
_REMEDY_AGAIN = "Delete the file: it is made again from the adapter when it is next used."


@dataclass(frozen=True, slots=True, eq=False)
class MappedPair:
    """A module's factors as views of the mapping, which lives as long as they do."""

    a: NDArray[Any]
    """[rank, in], the embedding's [vocab, rank]: float32, float16, or bfloat16 as the uint16 of its bits."""
    b: NDArray[Any]
    """[rank, out], rows in GGUF order, of the same types: delta = scale * b.T @ a."""
    scale: float
    """A float32's value, finite."""
    row_scale: NDArray[np.float32] | None = None
    """[out], rows in GGUF order: DoRA's g."""
    bias: NDArray[np.float32] | None = None
    """[out], rows in GGUF order: lora_bias, without the scale."""


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
    kind = (header.metadata.get("general.type"), header.metadata.get("general.architecture"))
    if kind != (KIND, ARCHITECTURE):
        message = f"The file's general.type is {quoted(str(kind[0]))}, not {KIND!r}."
        raise AdapterUnsupported("not_mapped", message, _REMEDY_AGAIN, param="general.type")
    layout = header.metadata.get("edgelora.layout")
    if layout not in (PLAIN_LAYOUT, LAYOUT):
        message = f"The file has the layout {quoted(str(layout))}; {PLAIN_LAYOUT} and {LAYOUT} are read."
        raise AdapterUnsupported("mapped_layout", message, _REMEDY_AGAIN, param="edgelora.layout")
    if header.alignment % ALIGNMENT:
        raise _corrupt("bad_alignment", f"its tensors are aligned to {header.alignment} bytes, not {ALIGNMENT}")


def _pairs(header: GgufHeader, data: Bytes, shape: LlamaShape) -> dict[Target, MappedPair]:
    more = header.metadata["edgelora.layout"] == LAYOUT
    modules = _modules(header.tensors, parts=_PARTS if more else _PARTS[:2])
    scales = _scales(header, count=len(modules))
    if not modules:
        raise _corrupt("incomplete_pair", "it has no tensors")
    pairs: dict[Target, MappedPair] = {}
    for (path, tensors), scale in zip(modules.items(), scales, strict=True):
        target = _target(path, shape, outer=more)
        _check_shapes(target, path, tensors, shape)
        views = {part: _view(data, f"{path}.{part}", tensor) for part, tensor in tensors.items()}
        pairs[target] = MappedPair(views["a"], views["b"], scale, views.get("row_scale"), views.get("bias"))
    return pairs


def _modules(tensors: Mapping[str, GgufTensor], *, parts: Sequence[str]) -> dict[str, dict[str, GgufTensor]]:
    """Group the tensors by module and part, both in the order of the file: a and b, then what else its layout may
    have."""
    modules: dict[str, dict[str, GgufTensor]] = {}
    last = ""
    for name, tensor in tensors.items():
        path, _, part = name.rpartition(".")
        if part not in parts:
            raise _corrupt("unknown_tensor", f"the tensor {quoted(name)} is none of its layout", name)
        if part == "a":
            last = path
        module = modules.setdefault(path, {})
        if path != last or (part == "b") != (list(module) == ["a"]):
            raise _corrupt("incomplete_pair", f"the tensor {quoted(name)} does not stand behind its pair", name)
        module[part] = tensor
    for path, module in modules.items():
        if "b" not in module:
            raise _corrupt("incomplete_pair", f"{path}.a stands alone", f"{path}.a")
    return modules


def _scales(header: GgufHeader, *, count: int) -> list[float]:
    scales = header.metadata.get("edgelora.scales")
    if not isinstance(scales, list) or header.types["edgelora.scales"] != "[f32]" or len(scales) != count:
        raise _corrupt("bad_scales", f"its edgelora.scales are not one f32 for each of {count} pairs")
    values = [float(scale) for scale in scales]
    if not all(map(math.isfinite, values)):
        raise _corrupt("bad_scales", "a scale is not finite")
    return values


def _target(path: str, shape: LlamaShape, *, outer: bool) -> Target:
    if outer and path in _OUTER:
        return Target(None, _OUTER[path])
    match = re.fullmatch(r"blk\.(0|[1-9]\d{0,5})\.(\w+)", path, flags=re.ASCII)
    if match is None or match[2] not in BY_GGUF:
        raise _corrupt("unknown_tensor", f"{quoted(path)} is no module of a Llama", path)
    layer = int(match[1])
    if layer >= shape.layers:
        message = f"The tensor {path}.a is for layer {layer}; the base has {shape.layers} layers."
        raise AdapterIncompatible("layer_mismatch", message, _REMEDY_BASE, param=f"{path}.a")
    return Target(layer, BY_GGUF[match[2]])


def _check_shapes(target: Target, name: str, tensors: Mapping[str, GgufTensor], shape: LlamaShape) -> None:
    # ggml's order, row length first: a is (in, rank), of the embedding (rank, in); b is (out, rank).
    a, b = tensors["a"].shape, tensors["b"].shape
    if target.module == EMBEDDING:
        a = a[::-1]
    if len(a) != 2 or len(b) != 2 or a[1] != b[1]:
        raise _corrupt("rank_mismatch", f"{name} has the factors {list(a)} and {list(b)}", name)
    widths, expected = (a[0], b[0]), (target.module.in_features(shape), target.module.out_features(shape))
    if widths != expected:
        message = (
            f"{name} maps {widths[0]} to {widths[1]} in the adapter and {expected[0]} to {expected[1]} in the base."
        )
        raise AdapterIncompatible("shape_mismatch", message, _REMEDY_BASE, param=name)
    for part in _PARTS[2:]:
        if part in tensors and (tensors[part].shape != (expected[1],) or GGML_TYPES[tensors[part].type].name != "F32"):
            raise _corrupt("bad_rows", f"{name}.{part} is not one F32 for each of {expected[1]} rows", f"{name}.{part}")


def _view(data: Bytes, name: str, tensor: GgufTensor) -> NDArray[Any]:
    """Return a view of a tensor's data. The reader of the header made sure that it lies within the file."""
    kind = GGML_TYPES[tensor.type].name
    if kind not in DTYPES:
        raise _corrupt("tensor_dtype", f"the tensor {name} is stored as {kind}", name)
    return data[tensor.offset : tensor.offset + tensor.nbytes].view(np.dtype(DTYPES[kind])).reshape(tensor.shape[::-1])


def _corrupt(code: str, what: str, param: str | None = None) -> AdapterCorrupt:
    return AdapterCorrupt(code, f"The file is not a sound adapter: {what}.", _REMEDY_AGAIN, param=param)
