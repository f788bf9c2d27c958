"""A strict reader for the header of a GGUF v3 file (little endian), standard library only. Reads no tensor data.

Every count, length, offset and size is checked against the file before it is used: the readers this stands in front of
are C++, and files that lied about them have been turned into out-of-bounds reads and writes there (CVE-2025-53630,
CVE-2026-27940, CVE-2026-7482). What this accepts, llama.cpp's own checks accept: tensors lie one after another in the
order of their infos, padded to the alignment.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from edgelora_models.errors import BaseError
from edgelora_models.files import LFS_POINTER, ErrorClass, quoted, refuse_pointer, regular_size, unreadable
from edgelora_models.gguf_types import GGML_TYPES, VALUE_ARRAY, VALUE_STRING, VALUE_TYPES

Value = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]

MAX_HEADER_BYTES = 256 << 20
"""Llama-3.1's, with its vocabulary and merges, takes 8 MB."""
MAX_KEYS = 10_000
MAX_TENSORS = 100_000
MAX_KEY_BYTES = 1_024
MAX_NAME_BYTES = 63
"""ggml keeps tensor names in 64 bytes, the last of them zero."""
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 65_536
DEFAULT_ALIGNMENT = 32
_MAX_ELEMENTS = (1 << 63) - 1

_AGAIN = "Fetch, copy or convert the file again; it may be cut short or changed."


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor's place, shape and type."""

    shape: tuple[int, ...]
    """In ggml's order `ne`: the row length first (numpy's shape reversed)."""
    type: int
    """ggml type number, a key of GGML_TYPES."""
    offset: int
    """Bytes from the start of the file."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """All a GGUF file says before its data."""

    metadata: Mapping[str, Value]
    types: Mapping[str, str]
    """The stored type of each metadata value: `u32`, `f32`, `str`, `[str]`, ..."""
    tensors: Mapping[str, GgufTensor]
    """By name, in the order of the data."""
    data_offset: int
    """Offset of the data in bytes from the start of the file."""
    file_size: int
    alignment: int


def read_header(path: Path, *, error: ErrorClass = BaseError) -> GgufHeader:
    """Read and check a GGUF header. Raises `error` for anything unsound, StorageError for the disk."""
    regular_size(path, error=error)
    try:
        with path.open("rb") as file:
            return read_open(file, name=path.name, error=error)
    except OSError as e:
        raise unreadable(path, e) from e


def read_open(file: BinaryIO, *, name: str, error: ErrorClass) -> GgufHeader:
    """Read the header of an open regular file, whose size is asked of the file itself. Raises `error`, and OSError."""
    start = file.read(len(LFS_POINTER))
    refuse_pointer(start, name, error=error)
    file.seek(-len(start), os.SEEK_CUR)
    return _read(_Cursor(file, os.fstat(file.fileno()).st_size, name, error))


class _Cursor:
    """Reads forward through the file. Holds all bytes read so far and fetches more in doubling steps."""

    def __init__(self, file: BinaryIO, size: int, name: str, error: ErrorClass) -> None:
        self.size = size
        self.position = 0
        self._file = file
        self._limit = min(size, MAX_HEADER_BYTES)
        self._buffer = b""
        self._name = name
        self._error = error

    def fail(self, what: str) -> NoReturn:
        raise self._error("bad_gguf", f"{self._name} is not a sound GGUF file: {what}.", _AGAIN)

    def need(self, count: int) -> None:
        """Make sure that `count` bytes follow the position and are in the buffer."""
        end = self.position + count
        if end > self._limit:
            self.fail(
                "it ends within its header" if end > self.size else f"its header is over {MAX_HEADER_BYTES} bytes"
            )
        if end > len(self._buffer):
            target = min(self._limit, max(end, 2 * len(self._buffer), 1 << 20))
            self._buffer += self._file.read(target - len(self._buffer))
            if end > len(self._buffer):
                self.fail("it ends within its header")

    def unpack(self, code: str, count: int = 1) -> tuple[Any, ...]:
        """Read `count` little-endian values of one struct code."""
        form = f"<{count}{code}"
        nbytes = struct.calcsize(form)
        self.need(nbytes)
        values = struct.unpack_from(form, self._buffer, self.position)
        self.position += nbytes
        return values

    def u32(self) -> int:
        return int(self.unpack("I")[0])

    def u64(self) -> int:
        return int(self.unpack("Q")[0])

    def remaining(self) -> int:
        return self._limit - self.position

    def text(self, what: str) -> str:
        return self.texts(1, what)[0]

    def texts(self, count: int, what: str) -> list[str]:
        """Read `count` strings, each a u64 length and UTF-8 bytes. The hot loop: a Llama-3 header holds 400,000 of
        them."""
        result: list[str] = []
        add, from_bytes = result.append, int.from_bytes
        buffer, position, have = self._buffer, self.position, len(self._buffer)
        try:
            for _ in range(count):
                end = position + 8 + from_bytes(buffer[position : position + 8], "little")
                if end > have or position + 8 > have:
                    self.position = position
                    end = position + 8 + self._length()
                    buffer, have = self._buffer, len(self._buffer)
                add(buffer[position + 8 : end].decode())
                position = end
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8 text")
        self.position = position
        return result

    def _length(self) -> int:
        """Return the length of the string at the position, with all of its bytes fetched; the position stays."""
        self.need(8)
        length = int.from_bytes(self._buffer[self.position : self.position + 8], "little")
        self.need(8 + length)
        return length


def _read(cursor: _Cursor) -> GgufHeader:
    _check_version(cursor)
    n_tensors, n_keys = cursor.u64(), cursor.u64()
    # The shortest key takes 13 bytes, the shortest tensor info 33: a count beyond that is a lie.
    if n_keys > min(MAX_KEYS, cursor.remaining() // 13) or n_tensors > min(MAX_TENSORS, cursor.remaining() // 33):
        cursor.fail(f"it claims {n_tensors} tensors and {n_keys} metadata keys, more than it can hold")
    metadata, types = _read_metadata(cursor, n_keys)
    alignment = _alignment(cursor, metadata, types)
    infos = _read_infos(cursor, n_tensors)
    data_offset = _pad(cursor.position, alignment)
    tensors = _place(cursor, infos, data_offset, alignment)
    return GgufHeader(metadata, types, tensors, data_offset, cursor.size, alignment)


def _check_version(cursor: _Cursor) -> None:
    if cursor.size < 24:
        cursor.fail(f"it has only {cursor.size} bytes")
    if cursor.unpack("s", 4)[0] != b"GGUF":
        cursor.fail("it does not begin with GGUF")
    version = cursor.u32()
    if version & 0xFFFF == 0:
        cursor.fail("it is big-endian")
    if version != 3:
        cursor.fail(f"it has format version {version}; only version 3 is read")


def _read_metadata(cursor: _Cursor, count: int) -> tuple[dict[str, Value], dict[str, str]]:
    metadata: dict[str, Value] = {}
    types: dict[str, str] = {}
    for _ in range(count):
        key = cursor.text("a metadata key")
        if not key or len(key.encode()) > MAX_KEY_BYTES:
            cursor.fail(f"a metadata key has {len(key.encode())} bytes")
        if key in metadata:
            cursor.fail(f"the metadata key {quoted(key)} stands twice")
        metadata[key], types[key] = _read_value(cursor, key)
    return metadata, types


def _read_value(cursor: _Cursor, key: str) -> tuple[Value, str]:
    kind = cursor.u32()
    if kind == VALUE_ARRAY:
        values, name = _read_values(cursor, key, kind=cursor.u32(), count=cursor.u64())
        return values, f"[{name}]"
    values, name = _read_values(cursor, key, kind=kind, count=1)
    return values[0], name


def _read_values(cursor: _Cursor, key: str, *, kind: int, count: int) -> tuple[list[Any], str]:
    """Read `count` values of one kind, and return them with the kind's name. Arrays of arrays are refused, as llama.cpp
    does."""
    if kind == VALUE_STRING:
        if count > cursor.remaining() // 8:
            cursor.fail(f"{quoted(key)} claims {count} strings, more than the file can hold")
        return cursor.texts(count, quoted(key)), "str"
    if kind not in VALUE_TYPES:
        cursor.fail(f"{quoted(key)} has the unknown value type {kind}")
    name, code = VALUE_TYPES[kind]
    if count > cursor.remaining() // struct.calcsize(f"<{code}"):
        cursor.fail(f"{quoted(key)} claims {count} values, more than the file can hold")
    return list(cursor.unpack(code, count)), name


def _alignment(cursor: _Cursor, metadata: Mapping[str, Value], types: Mapping[str, str]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    stored = types.get("general.alignment", "u32")
    if stored != "u32" or not isinstance(value, int) or not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):
        cursor.fail(f"general.alignment is {value} ({stored}), not a power of two up to {MAX_ALIGNMENT}")
    return value


@dataclass(frozen=True, slots=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    """Bytes from the start of the data, as the file says."""
    nbytes: int


def _read_infos(cursor: _Cursor, count: int) -> list[_Info]:
    infos: list[_Info] = []
    seen: set[str] = set()
    for _ in range(count):
        info = _read_info(cursor)
        if info.name in seen:
            cursor.fail(f"the tensor {quoted(info.name)} stands twice")
        seen.add(info.name)
        infos.append(info)
    return infos


def _read_info(cursor: _Cursor) -> _Info:
    name = cursor.text("a tensor name")
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES or "\0" in name:
        cursor.fail(f"the tensor name {quoted(name)} is not 1 to {MAX_NAME_BYTES} bytes without a zero")
    dimensions = cursor.u32()
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        cursor.fail(f"the tensor {quoted(name)} has {dimensions} dimensions")
    shape = cursor.unpack("Q", dimensions)
    kind, offset = cursor.u32(), cursor.u64()
    return _Info(name, shape, kind, offset, _nbytes(cursor, name, shape, kind))


def _nbytes(cursor: _Cursor, name: str, shape: tuple[int, ...], kind: int) -> int:
    """Return the bytes of a tensor's data, after checking that its type and shape make sense."""
    if kind not in GGML_TYPES:
        cursor.fail(f"the tensor {quoted(name)} has the unknown type {kind}")
    elements = 1
    for n in shape:
        elements *= n
        if not 1 <= elements <= _MAX_ELEMENTS:
            cursor.fail(f"the tensor {quoted(name)} has the impossible shape {list(shape)}")
    form = GGML_TYPES[kind]
    if shape[0] % form.block:
        cursor.fail(f"the rows of {quoted(name)} have {shape[0]} elements, no multiple of {form.name}'s {form.block}")
    return elements // form.block * form.nbytes


def _place(cursor: _Cursor, infos: list[_Info], data_offset: int, alignment: int) -> dict[str, GgufTensor]:
    """Check that the tensors follow one another and end within the file. Padding after the last may be missing."""
    tensors: dict[str, GgufTensor] = {}
    position = 0
    for info in infos:
        if info.offset != position:
            cursor.fail(f"the tensor {quoted(info.name)} begins at byte {info.offset} of the data, not at {position}")
        if data_offset + position + info.nbytes > cursor.size:
            cursor.fail(f"it ends within the tensor {quoted(info.name)}")
        tensors[info.name] = GgufTensor(info.shape, info.type, data_offset + position, info.nbytes)
        position = _pad(position + info.nbytes, alignment)
    return tensors


def _pad(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment
