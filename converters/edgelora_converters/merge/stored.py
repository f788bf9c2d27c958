"""Shared steps of merging into any kind of file: rows in the type the base stores, bytes carried over. Owns no
layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import Target
from edgelora_converters.merge.requantize import WRITABLE, requantised
from edgelora_models.errors import AdapterUnsupported, BaseError

_CHUNK = 16 << 20
"""Bytes."""


def check_type(target: Target, kind: str) -> None:
    """Raise AdapterUnsupported unless rows can be stored as `kind` here."""
    if kind not in WRITABLE:
        message = f"The base stores {target.hf_path} as {kind}, which nothing can be merged into."
        remedy = "Merge into a base in F16, BF16 or Q8_0, and quantize the result."
        raise AdapterUnsupported("merge_type", message, remedy, param=target.hf_path)


def stored_rows(target: Target, exact: NDArray[np.float64], kind: str) -> NDArray[Any]:
    """Encode rows as their bytes in the file. Raises AdapterUnsupported where a value leaves the type's range."""
    with np.errstate(over="ignore"):
        rows = exact.astype(np.float32)
    stored = requantised(rows, kind)
    if not np.isfinite(rows).all() or (kind == "F16" and not np.isfinite(stored).all()):
        message = f"{target.hf_path} has values that {kind} cannot hold once the adapter is merged."
        remedy = "Merge with a smaller weight, or into a base in BF16 or F32."
        raise AdapterUnsupported("merge_overflow", message, remedy, param=target.hf_path)
    return stored


def copied(source: BinaryIO, offset: int, nbytes: int) -> Iterator[bytes]:
    """Yield `nbytes` of an open file from `offset` on, in chunks. Raises BaseError where it ends before, OSError."""
    source.seek(offset)
    while nbytes:
        piece = source.read(min(nbytes, _CHUNK))
        if not piece:
            raise BaseError("base_changed", f"{source.name} was cut while it was read.", "Let it be, and try again.")
        nbytes -= len(piece)
        yield piece
