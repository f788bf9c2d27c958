"""A strict safetensors reader without torch. Owns the file format; knows nothing of adapters.

Everything the header says is checked against the file before a tensor is touched: the header's length, JSON, names,
dtypes, shapes, and that the tensors lie one after another and fill the file exactly (the format's own rule).
Tensors are read with positioned reads and not through a memory map, because a mapped file that shrinks while it is
read kills the process; a short read is an error like any other.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.tensors.dtypes import widened_from
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported
from edgelora_models.files import (
    LFS_POINTER,
    ErrorClass,
    parse_object,
    quoted,
    refuse_pointer,
    regular_size,
    unreadable,
)

ADAPTER_HEADER_BYTES = 1 << 20
"""A rank-16 adapter on all modules of an 80-layer model needs 0.2 MB."""
BASE_HEADER_BYTES = 64 << 20
"""For the shards of a base; the reference implementation allows 100 MB."""

ITEMSIZE: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes per element of the dtypes a header may name."""

READABLE = frozenset({"F32", "F16", "BF16"})
"""Types read as float32 by default: no others, because a base in 8 bits has scales beside its weights."""
FACTORS = READABLE | {"F64", "F8_E4M3", "F8_E5M2"}
"""Types that an adapter's factors may be stored in: FP8 is widened exactly, F64 rounded once (dtypes.rounded)."""

MAX_DIMENSIONS = 8
_BLOCK = 1 << 20
"""Values widened at a time: what is read beside the result stays in the processor's cache."""

_AGAIN = "Fetch or copy the file again; it may be cut short or changed."


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The place, shape and type of a tensor in the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""
    nbytes: int


class SafetensorsFile(AbstractContextManager["SafetensorsFile"]):
    """An open, checked file. Not thread-safe; close it or use it in a `with`."""

    def __init__(
        self,
        *,
        path: Path,
        file: FileIO,
        tensors: Mapping[str, TensorInfo],
        metadata: Mapping[str, str],
        readable: frozenset[str],
        corrupt: ErrorClass,
        unsupported: ErrorClass,
    ) -> None:
        self.path = path
        self.tensors = tensors
        """By name, in the order of the data."""
        self.metadata = metadata
        self._file = file
        self._readable = readable
        self._corrupt = corrupt
        self._unsupported = unsupported

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def read_f32(self, name: str) -> NDArray[np.float32]:
        """Read a tensor as a fresh float32 array of its shape: exactly, but for F64, which is rounded once
        (dtypes.rounded).

        Takes little memory beside the array. Raises the `unsupported` error for dtypes that are not `readable` and for
        F64 values outside float32's range, the `corrupt` error for NaN and infinity, naming the tensor; KeyError for a
        name that is not in `names`.
        """
        info = self.tensors[name]
        return self._floats(name, info.offset, math.prod(info.shape)).reshape(info.shape)

    def rows_f32(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Read the rows from `start` to before `stop` as `read_f32` does. Raises IndexError for rows that are not
        there."""
        info = self.tensors[name]
        if not info.shape or not 0 <= start <= stop <= info.shape[0]:
            raise IndexError(f"rows {start} to {stop} of a tensor of shape {info.shape}")
        width = math.prod(info.shape[1:])
        offset = info.offset + start * width * ITEMSIZE[info.dtype]
        return self._floats(name, offset, (stop - start) * width).reshape(stop - start, *info.shape[1:])

    def close(self) -> None:
        """Give the file back. Safe twice."""
        self._file.close()

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _floats(self, name: str, offset: int, count: int) -> NDArray[np.float32]:
        """Read `count` values from `offset` on, widened block by block."""
        dtype = self.tensors[name].dtype
        if dtype not in self._readable:
            raise self._unsupported(
                "tensor_dtype",
                f"The tensor {quoted(name)} is stored as {dtype}.",
                "Save it again as float32, float16 or bfloat16.",
                param=name,
            )
        values, size = np.empty(count, np.float32), ITEMSIZE[dtype]
        block = np.empty(0 if dtype == "F32" else min(count, _BLOCK) * size, np.uint8)
        for start in range(0, count, _BLOCK):
            part = values[start : start + _BLOCK]
            raw = part.view(np.uint8) if dtype == "F32" else block[: part.size * size]
            self._fill(name, offset + start * size, raw)
            if dtype != "F32":
                part[:] = widened_from(raw, dtype)
            if not np.isfinite(part).all():
                raise self._not_finite(name, raw)
        return values

    def _not_finite(self, name: str, raw: NDArray[np.uint8]) -> Exception:
        if self.tensors[name].dtype == "F64" and np.isfinite(raw.view("<f8")).all():
            return self._unsupported(
                "tensor_range",
                f"The tensor {quoted(name)} holds float64 values outside the range of float32.",
                "Such values are no trained weights: use an earlier checkpoint.",
                param=name,
            )
        return self._corrupt(
            "tensor_not_finite",
            f"The tensor {quoted(name)} holds NaN or infinity.",
            "The training diverged or the file is damaged: use an earlier checkpoint.",
            param=name,
        )

    def _fill(self, name: str, offset: int, raw: NDArray[np.uint8]) -> None:
        """Read the bytes from `offset` on into `raw`."""
        try:
            self._file.seek(offset)
            nbytes = self._file.readinto(raw.data)
        except OSError as e:
            raise unreadable(self.path, e) from e
        if nbytes != raw.size:
            raise self._corrupt(
                "file_truncated", f"{self.path.name} ends within the tensor {quoted(name)}.", _AGAIN, param=name
            )


def open_safetensors(
    path: Path,
    *,
    max_header_bytes: int = ADAPTER_HEADER_BYTES,
    readable: frozenset[str] = READABLE,
    corrupt: ErrorClass = AdapterCorrupt,
    unsupported: ErrorClass = AdapterUnsupported,
) -> SafetensorsFile:
    """Open and check a safetensors file. For a base's shards pass BASE_HEADER_BYTES and BaseError twice.

    `readable` are the dtypes whose values may be asked for; others may be there, unread.
    Raises `corrupt` for anything that breaks the format, `unsupported` for an unknown dtype, StorageError for the disk.
    """
    size = regular_size(path, error=corrupt)
    try:
        file = path.open("rb", buffering=0)  # a buffer would hold what the file no longer does
    except OSError as e:
        raise unreadable(path, e) from e
    try:
        check = _Check(path.name, corrupt, unsupported)
        header, start = check.header(file, size, max_header_bytes)
        metadata = check.metadata(header.pop("__metadata__", {}))
        tensors = check.tensors(header, start, size)
    except OSError as e:
        file.close()
        raise unreadable(path, e) from e
    except BaseException:
        file.close()
        raise
    return SafetensorsFile(
        path=path,
        file=file,
        tensors=tensors,
        metadata=metadata,
        readable=readable,
        corrupt=corrupt,
        unsupported=unsupported,
    )


@dataclass(frozen=True, slots=True)
class _Check:
    """The header's rules, with what they raise."""

    name: str
    corrupt: ErrorClass
    unsupported: ErrorClass

    def fail(self, what: str, param: str | None = None) -> Exception:
        return self.corrupt(
            "bad_safetensors", f"{self.name} is not a sound safetensors file: {what}.", _AGAIN, param=param
        )

    def header(self, file: FileIO, size: int, limit: int) -> tuple[dict[str, Any], int]:
        """Parse the header, and return it with the offset at which the data begins."""
        if size < 8:
            raise self.fail(f"it has {size} bytes, too few for a header")
        start = file.read(len(LFS_POINTER))
        refuse_pointer(start, self.name, error=self.corrupt)
        length = int.from_bytes(start[:8], "little")
        file.seek(8)
        if length > size - 8:
            raise self.fail("it ends within its header")
        if length > limit:
            raise self.fail(f"its header takes {length} bytes, more than the {limit} allowed")
        text = file.read(length)
        if not text.startswith(b"{"):
            raise self.fail("its header does not begin with a brace")
        return parse_object(text, where=f"The header of {self.name}", error=self.corrupt), 8 + length

    def metadata(self, value: Any) -> dict[str, str]:
        if value is None:  # MLX writes that for none
            return {}
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise self.fail("its __metadata__ must map strings to strings")
        return value

    def tensors(self, header: dict[str, Any], start: int, size: int) -> dict[str, TensorInfo]:
        """Infos in the order of their data, which must fill the file from `start` to `size` without gap or overlap."""
        infos = sorted(
            ((n, self.tensor(n, e)) for n, e in header.items()), key=lambda item: (item[1].offset, item[1].nbytes)
        )
        position = 0
        result: dict[str, TensorInfo] = {}
        for name, info in infos:
            if info.offset != position:
                raise self.fail(f"the data of {quoted(name)} begins at byte {info.offset}, not at {position}", name)
            position += info.nbytes
            result[name] = TensorInfo(info.dtype, info.shape, start + info.offset, info.nbytes)
        if position != size - start:
            raise self.fail(f"its tensors take {position} bytes of data, but it holds {size - start}")
        return result

    def tensor(self, name: str, entry: Any) -> TensorInfo:
        """Check a single header entry; its offset counts from the start of the data."""
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise self.fail(f"the entry of {quoted(name)} must have dtype, shape and data_offsets", name)
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ITEMSIZE:
            raise self.unsupported(
                "tensor_dtype",
                f"The tensor {quoted(name)} has the unknown dtype {quoted(str(dtype))}.",
                _AGAIN,
                param=name,
            )
        if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
            raise self.fail(f"the shape of {quoted(name)} must be at most {MAX_DIMENSIONS} whole numbers", name)
        if not _counts(offsets) or len(offsets) != 2:
            raise self.fail(f"the data_offsets of {quoted(name)} must be two whole numbers", name)
        nbytes = math.prod(shape) * ITEMSIZE[dtype]
        if offsets[1] - offsets[0] != nbytes:
            raise self.fail(
                f"the shape of {quoted(name)} needs {nbytes} bytes, its offsets give {offsets[1] - offsets[0]}", name
            )
        return TensorInfo(dtype, tuple(shape), offsets[0], nbytes)


def _counts(value: Any) -> bool:
    """Return whether `value` is a list of whole numbers that fit a file's 63 bits. (A bool is not a number here.)"""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)
