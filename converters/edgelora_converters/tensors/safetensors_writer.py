"""Writing safetensors files tensor by tensor, with the same bytes for the same content. Owns the layout, no values.

The format's own package wants all tensors in memory at once, which a base of 16 GB is not. Reading is
`safetensors_file`. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.tensors.safetensors_reader import ITEMSIZE

_ALIGNMENT = 8
"""Bytes: the header is padded to it, so that no tensor of the first, widest type lies askew."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written: its form now, its bytes when their turn comes."""

    name: str
    dtype: str
    """A key of safetensors_file.ITEMSIZE."""
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[NDArray[Any]]]
    """Little-endian arrays whose bytes, one after another, are the tensor's."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


def by_width(tensors: Iterable[Planned]) -> list[Planned]:
    """Return the order in which the format's own package writes: wide types first, which keeps all aligned; then by
    name."""
    return sorted(tensors, key=lambda tensor: (-ITEMSIZE[tensor.dtype], tensor.name))


def write_safetensors(path: Path, tensors: Sequence[Planned], *, metadata: Mapping[str, str]) -> None:
    """Write `tensors` in their order to the new file `path`. Raises OSError, and what the blocks raise."""
    with path.open("xb") as file:
        file.write(_header(tensors, metadata))
        for tensor in tensors:
            _write(file, tensor)


def _header(tensors: Iterable[Planned], metadata: Mapping[str, str]) -> bytes:
    fields: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for tensor in tensors:
        end = position + tensor.nbytes
        fields[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write(file: BinaryIO, tensor: Planned) -> None:
    written = 0
    for block in tensor.blocks():
        # Not tofile, which loses the error of a full disk.
        written += file.write(np.ascontiguousarray(block).view(np.uint8).data)
    if written != tensor.nbytes:
        raise ValueError(f"{tensor.name} was planned with {tensor.nbytes} bytes and came with {written}")
