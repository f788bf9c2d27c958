"""The digest that identifies a checkpoint by its values, the same for one file and for shards. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.tensors.dtypes import stored


class WeightDigest:
    """sha256 over one weight's dtype, shape and values as stored, little endian, rows in Hugging Face's order."""

    def __init__(self, dtype: str, shape: Sequence[int]) -> None:
        self._dtype = dtype
        self._hash = hashlib.sha256(f"{dtype} {list(shape)}\n".encode())

    def update(self, rows: NDArray[np.float32]) -> None:
        """Take in the next rows, widened to float32."""
        values = narrow(rows, self._dtype)
        self._hash.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()


def content_digest(digests: Mapping[str, str]) -> str:
    """sha256 hex over the names and digests of all weights."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def narrow(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Values read from `dtype` in its own 16 bits where it has so many (bfloat16 as their uint16); else as they are."""
    return stored(values, "F16" if dtype == "F16" else "BF16") if dtype in ("F16", "BF16") else values
