"""Reading a GGUF adapter, for the gate and for the runtime. Owns every check between a file and what computes with it.

llama.cpp trusts its adapters: an alpha of the wrong type, an F64 tensor or factors of two ranks end the process, a NaN
goes straight into the logits. So nothing here is passed on unread. Writing is `gguf`.

Data is read, not mapped: a mapped file that shrinks would end the process too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.gguf.writer import INVOCATION_KEY
from edgelora_converters.lora.adapter import LoraPair, Target
from edgelora_converters.lora.fit import folded_b
from edgelora_converters.tensors.dtypes import DTYPES, widened
from edgelora_converters.tensors.lazy import LazyMapping
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.files import quoted, unreadable
from edgelora_models.gguf_header import GgufHeader, GgufTensor, read_header
from edgelora_models.gguf_types import GGML_TYPES
from edgelora_models.modules import BY_GGUF, EMBEDDING, OUTER_MODULES
from edgelora_models.shape import LlamaShape

Factors = tuple[NDArray[Any], NDArray[Any]]
"""a [rank, in] and b [out, rank], rows in GGUF order, the whole scale in b: delta = b @ a. The embedding's a is a view
of the file's [vocab, rank]."""

_OUTER = {module.gguf_path(None): module for module in OUTER_MODULES}
_HALVES = ("lora_a", "lora_b")

_REMEDY_BASE = "Use the base it was made for, or convert the PEFT adapter for this one."
_REMEDY_AGAIN = "Convert the PEFT adapter again."


def read(path: Path, shape: LlamaShape, *, widen: bool = True) -> dict[Target, Factors]:
    """Read and check an adapter for a base of `shape`: float32 factors, in the order of the file, at least one pair.

    F32, F16 and BF16 are widened exactly. Without `widen` F16 stays float16 and BF16 the uint16 of its bits, but for a
    b that a scale is folded into. `adapter.lora.alpha` means what it means to llama.cpp: 0.0 or absent leaves b as
    stored, any other value multiplies it by alpha / rank.

    Raises AdapterCorrupt for an unsound file, AdapterIncompatible for another architecture, layer count or width,
    AdapterUnsupported for what a Llama's linear modules have no place for, StorageError where the disk fails.
    """
    with opened(path, shape, widen=widen) as pairs:
        return dict(pairs)


@contextmanager
def opened(path: Path, shape: LlamaShape, *, widen: bool = True) -> Iterator[Mapping[Target, Factors]]:
    """Yield the pairs as `read` does, but read each, and check its values, on access. Raises as `read` does."""
    header = read_header(path, error=AdapterCorrupt)
    check_kind(header)
    _invocation(header)
    alpha = read_alpha(header)
    halves = _halves(header.tensors, shape)
    try:
        with path.open("rb") as file:

            def pair(target: Target) -> Factors:
                a, b = _read_pair(file, target, halves[target], alpha)
                return (widened(a), widened(b)) if widen else (a, b)

            yield LazyMapping(halves, pair)
    except OSError as error:
        raise unreadable(path, error) from error


def read_invocation(path: Path) -> tuple[int, ...]:
    """Return the token ids an aLoRA acts from on; empty for plain LoRA. Raises AdapterCorrupt, StorageError."""
    return _invocation(read_header(path, error=AdapterCorrupt))


def check_kind(header: GgufHeader) -> None:
    """Raise AdapterUnsupported unless the file says it is a LoRA adapter, AdapterIncompatible unless for a Llama."""
    if header.metadata.get("general.type", "model") == "model":
        remedy = "Install it as a base (edgelora base add FILE), or give a LoRA adapter converted to GGUF."
        raise AdapterUnsupported("not_a_lora", "The file is a model and not an adapter.", remedy, param="general.type")
    for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
        if (value := header.metadata.get(key)) != expected:
            message = f"The file's {key} is {quoted(str(value))}, not {expected!r}."
            raise AdapterUnsupported("not_a_lora", message, "Give a LoRA adapter converted to GGUF.", param=key)
    if (architecture := header.metadata.get("general.architecture")) != "llama":
        message = f"The adapter is for the architecture {quoted(str(architecture))}, not 'llama'."
        raise AdapterIncompatible("architecture_mismatch", message, _REMEDY_BASE, param="general.architecture")


def _invocation(header: GgufHeader) -> tuple[int, ...]:
    tokens = header.metadata.get(INVOCATION_KEY, [])
    if not isinstance(tokens, list) or header.types.get(INVOCATION_KEY, "[u32]") != "[u32]":
        message = f"The file's {INVOCATION_KEY} is {header.types[INVOCATION_KEY]}, not an array of u32."
        raise AdapterCorrupt("bad_invocation", message, _REMEDY_AGAIN, param=INVOCATION_KEY)
    return tuple(int(token) for token in tokens)


def read_alpha(header: GgufHeader) -> float:
    """0.0 where it is absent, which to llama.cpp is the same. Raises AdapterCorrupt for what is no finite f32."""
    key = "adapter.lora.alpha"
    value, kind = header.metadata.get(key, 0.0), header.types.get(key, "f32")
    if kind != "f32" or not isinstance(value, float) or not np.isfinite(value):
        message = f"The file's {key} is {quoted(str(value))} ({kind}), not a finite f32."
        raise AdapterCorrupt("bad_alpha", message, _REMEDY_AGAIN, param=key)
    return value


def _halves(tensors: Mapping[str, GgufTensor], shape: LlamaShape) -> dict[Target, tuple[GgufTensor, GgufTensor]]:
    """Return the checked (lora_a, lora_b) of every module: names, pairs, widths, ranks and dtypes, no data yet."""
    halves: dict[Target, dict[str, GgufTensor]] = {}
    for name, tensor in tensors.items():
        target, half = _parse_name(name, shape)
        _check_type(name, tensor)
        halves.setdefault(target, {})[half] = tensor
    if not halves:
        raise AdapterCorrupt("empty_adapter", "The adapter has no tensors.", _REMEDY_AGAIN)
    return {target: _checked_pair(target, pair, shape) for target, pair in halves.items()}


def _parse_name(name: str, shape: LlamaShape) -> tuple[Target, str]:
    base, _, half = name.rpartition(".")
    if base in _OUTER and half in _HALVES:
        return _outer(name, base, shape), half
    match = re.fullmatch(r"blk\.(0|[1-9]\d{0,5})\.(\w+)\.weight", base, flags=re.ASCII)
    if match is None or match[2] not in BY_GGUF or half not in _HALVES:
        message = f"The tensor {quoted(name)} is no LoRA factor of a Llama's linear modules."
        raise AdapterUnsupported(
            "unknown_tensor", message, "Train the adapter on the linear modules alone.", param=name
        )
    layer = int(match[1])
    if layer >= shape.layers:
        message = f"The tensor {name} is for layer {layer}; the base has {shape.layers} layers."
        raise AdapterIncompatible("layer_mismatch", message, _REMEDY_BASE, param=name)
    return Target(layer, BY_GGUF[match[2]]), half


def _outer(name: str, base: str, shape: LlamaShape) -> Target:
    if shape.tied:
        message = (
            f"The tensor {name} changes one end of a base that has one matrix for both, on which llama.cpp aborts."
        )
        raise AdapterUnsupported("tied_base", message, _REMEDY_BASE, param=name)
    return Target(None, _OUTER[base])


def _check_type(name: str, tensor: GgufTensor) -> None:
    if (kind := GGML_TYPES[tensor.type].name) not in DTYPES:
        message = f"The tensor {name} is stored as {kind}; F32, F16 and BF16 are read."
        raise AdapterUnsupported("tensor_dtype", message, _REMEDY_AGAIN, param=name)


def _checked_pair(target: Target, pair: Mapping[str, GgufTensor], shape: LlamaShape) -> tuple[GgufTensor, GgufTensor]:
    name = target.gguf_path
    if len(pair) != 2:
        missing = "lora_a" if "lora_b" in pair else "lora_b"
        message = f"The tensor {name}.{missing} is missing."
        raise AdapterCorrupt("incomplete_pair", message, _REMEDY_AGAIN, param=f"{name}.{missing}")
    # ggml's order, row length first: a is (in, rank), of the embedding (rank, in); b is (rank, out).
    a, b = pair["lora_a"].shape, pair["lora_b"].shape
    if target.module == EMBEDDING:
        a = a[::-1]
    if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        message = f"The factors of {name} do not fit together: {list(a)} and {list(b)}."
        raise AdapterCorrupt("rank_mismatch", message, _REMEDY_AGAIN, param=name)
    widths, expected = (a[0], b[1]), (target.module.in_features(shape), target.module.out_features(shape))
    if widths != expected:
        message = (
            f"{name} maps {widths[0]} to {widths[1]} in the adapter and {expected[0]} to {expected[1]} in the base."
        )
        raise AdapterIncompatible("shape_mismatch", message, _REMEDY_BASE, param=name)
    return pair["lora_a"], pair["lora_b"]


def _read_pair(file: BinaryIO, target: Target, halves: tuple[GgufTensor, GgufTensor], alpha: float) -> Factors:
    name = target.gguf_path
    a = _read_tensor(file, f"{name}.lora_a", halves[0])
    b = _read_tensor(file, f"{name}.lora_b", halves[1])
    if target.module == EMBEDDING:
        a = a.T
    if alpha == 0.0:
        return a, b
    return a, folded_b(target, LoraPair(widened(a), widened(b), alpha / len(a)))


def _read_tensor(file: BinaryIO, name: str, tensor: GgufTensor) -> NDArray[Any]:
    """Return a tensor in its stored type. Raises AdapterCorrupt for a value that is not finite."""
    kind = GGML_TYPES[tensor.type].name
    file.seek(tensor.offset)
    raw: NDArray[Any] = np.fromfile(file, dtype=DTYPES[kind], count=tensor.shape[0] * tensor.shape[1])
    if raw.nbytes != tensor.nbytes:
        raise AdapterCorrupt("file_truncated", f"The file ends within the tensor {name}.", _REMEDY_AGAIN, param=name)
    if not np.isfinite(widened(raw) if kind == "BF16" else raw).all():
        message = f"The tensor {name} holds NaN or infinity."
        raise AdapterCorrupt(
            "tensor_not_finite", message, "Use an earlier checkpoint, or convert it again.", param=name
        )
    return raw.reshape(tensor.shape[::-1])
