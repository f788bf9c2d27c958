"""Reading a GGUF adapter as a source: one that edgelora wrote, or one of llama.cpp's own converter.

Where the file has an alpha, factors stay as stored and the scale is alpha / rank; where it has none (or 0.0, as ours),
the scale is 1. F32, F16 and BF16 are widened exactly; Q8_0, in which llama.cpp's converter can store adapters, is
dequantized exactly to float32. Checks for the runtime are `gguf.adapter_reader`'s, which trusts less.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.gguf.adapter_reader import check_kind, read_alpha, read_invocation
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.lora.metadata import PROVENANCE_PREFIX
from edgelora_converters.tensors.row_order import deinterleave
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.files import quoted, unreadable
from edgelora_models.gguf_header import GgufHeader, GgufTensor, read_header
from edgelora_models.gguf_types import GGML_TYPES
from edgelora_models.modules import BY_GGUF, EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape

READABLE = frozenset({"F32", "F16", "BF16", "Q8_0"})

_OUTER = {module.gguf: module for module in (EMBEDDING, HEAD)}
_REMEDY_AGAIN = "Fetch or convert the file again."
_REMEDY_BASE = "It was made for another base: choose that base (--base)."


def read(path: Path, shape: LlamaShape) -> LoraAdapter:
    """Read the adapter in the file at `path` for a base of `shape`, q and k back in Hugging Face row order.

    Raises AdapterCorrupt for an unsound file, AdapterIncompatible for another architecture, layer count or width,
    AdapterUnsupported for tensors and types that are no plain LoRA, StorageError.
    """
    header = read_header(path, error=AdapterCorrupt)
    check_kind(header)
    invocation, alpha = read_invocation(path), read_alpha(header)
    halves = _halves(header, shape)
    try:
        with path.open("rb") as file:
            pairs = {target: _pair(file, target, halves[target], shape, alpha) for target in halves}
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise unreadable(path, e) from e
    return LoraAdapter(pairs, digest, base_model(header), _facts(header, alpha), invocation)


def _halves(header: GgufHeader, shape: LlamaShape) -> dict[Target, dict[str, GgufTensor]]:
    halves: dict[Target, dict[str, GgufTensor]] = {}
    for name, tensor in header.tensors.items():
        target, half = _target(name, shape)
        halves.setdefault(target, {})[half] = tensor
        if (kind := GGML_TYPES[tensor.type].name) not in READABLE or len(tensor.shape) != 2:
            message = f"The tensor {name} is stored as {kind} in {len(tensor.shape)} dimensions."
            raise AdapterUnsupported("tensor_dtype", message, "Convert it again with --outtype f32.", param=name)
    if not halves:
        raise AdapterCorrupt("empty_adapter", "The adapter has no tensors.", _REMEDY_AGAIN)
    for target, pair in halves.items():
        _check_pair(target, pair, shape)
    return dict(sorted(halves.items(), key=lambda item: (item[0].depth, item[0].module.gguf)))


def _target(name: str, shape: LlamaShape) -> tuple[Target, str]:
    match = re.fullmatch(r"(?:blk\.(0|[1-9]\d{0,5})\.)?(\w+)\.weight\.(lora_[ab])", name, flags=re.ASCII)
    module = None if match is None else (_OUTER if match[1] is None else BY_GGUF).get(match[2])
    if match is None or module is None:
        message = f"The tensor {quoted(name)} is no LoRA factor of a Llama's modules."
        raise AdapterUnsupported(
            "unknown_tensor", message, "Train the adapter on a Llama's linear modules.", param=name
        )
    layer = None if match[1] is None else int(match[1])
    if layer is not None and layer >= shape.layers:
        message = f"The tensor {name} is for layer {layer}; the base has {shape.layers} layers."
        raise AdapterIncompatible("layer_mismatch", message, _REMEDY_BASE, param=name)
    return Target(layer, module), match[3]


def _check_pair(target: Target, pair: Mapping[str, GgufTensor], shape: LlamaShape) -> None:
    if len(pair) != 2:
        missing = "lora_a" if "lora_b" in pair else "lora_b"
        message = f"The tensor {target.gguf_path}.{missing} is missing."
        raise AdapterCorrupt("incomplete_pair", message, _REMEDY_AGAIN, param=f"{target.gguf_path}.{missing}")
    a, b = _shape(target, "lora_a", pair["lora_a"]), pair["lora_b"].shape[::-1]
    if a[0] != b[1]:
        message = f"The factors of {target.gguf_path} do not fit together: {list(a)} and {list(b)}."
        raise AdapterCorrupt("rank_mismatch", message, _REMEDY_AGAIN, param=target.gguf_path)
    widths, expected = (a[1], b[0]), (target.module.in_features(shape), target.module.out_features(shape))
    if widths != expected:
        name = target.gguf_path
        message = (
            f"{name} maps {widths[0]} to {widths[1]} in the adapter and {expected[0]} to {expected[1]} in the base."
        )
        raise AdapterIncompatible("shape_mismatch", message, _REMEDY_BASE, param=name)


def _shape(target: Target, half: str, tensor: GgufTensor) -> tuple[int, ...]:
    """Return [rank, in] of an a, [out, rank] of a b. llama.cpp keeps the embedding's a transposed: [vocab, rank]."""
    rows = tensor.shape[::-1]
    return rows[::-1] if target.module == EMBEDDING and half == "lora_a" else rows


def _pair(file: BinaryIO, target: Target, pair: Mapping[str, GgufTensor], shape: LlamaShape, alpha: float) -> LoraPair:
    a, b = (_values(file, f"{target.gguf_path}.{half}", pair[half]) for half in ("lora_a", "lora_b"))
    if target.module == EMBEDDING:
        a = np.ascontiguousarray(a.T)
    scale = alpha / len(a) if alpha else 1.0
    return LoraPair(a, deinterleave(b, target.module.rotary_heads(shape)), scale)


def _values(file: BinaryIO, name: str, tensor: GgufTensor) -> NDArray[np.float32]:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    file.seek(tensor.offset)
    raw = np.fromfile(file, dtype=np.uint8, count=tensor.nbytes)
    if raw.size != tensor.nbytes:
        raise AdapterCorrupt("file_truncated", f"The file ends within the tensor {name}.", _REMEDY_AGAIN, param=name)
    rows = raw.reshape(tensor.shape[1], -1)
    values: NDArray[np.float32] = dequantize(rows, GGMLQuantizationType(tensor.type)).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        message = f"The tensor {name} holds NaN or infinity."
        raise AdapterCorrupt(
            "tensor_not_finite", message, "Use an earlier checkpoint, or convert it again.", param=name
        )
    return values


def base_model(header: GgufHeader) -> str | None:
    """Return the base's name as we, or llama.cpp's converter, noted it; for people."""
    names = (header.metadata.get(f"{PROVENANCE_PREFIX}trained_on"), header.metadata.get("general.base_model.0.name"))
    return next((name for name in names if isinstance(name, str) and name), None)


def _facts(header: GgufHeader, alpha: float) -> Mapping[str, str]:
    made = "edgelora" if "edgelora.converter_version" in header.metadata else "another converter"
    return {"alpha": f"{alpha:g}" if alpha else "folded", "converted_by": made}
