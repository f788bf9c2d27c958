"""Where the parts of a file meet: each header field, each entry, each tensor. An independent walk of the formats."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of GGUF's value types."""
_STRING, _ARRAY = 8, 9


def boundaries(name: str, data: bytes, *, data_too: bool = True) -> set[int]:
    """Offsets within a sound file at which a part of it ends; with `data_too` those between tensors as well."""
    if name.endswith(".json"):
        return {0, len(data), *(at for at, byte in enumerate(data) if byte in b"\n{}[]")}
    if data[:4] == b"GGUF":
        return set(_gguf(data, data_too=data_too))
    return set(_safetensors(data, data_too=data_too))


def _safetensors(data: bytes, *, data_too: bool) -> Iterator[int]:
    end = 8 + int.from_bytes(data[:8], "little")
    yield from (0, 4, 8, end)
    yield from (at for at in range(8, end) if data[at] in b",{}[]")
    if data_too:
        entries = json.loads(data[8:end])
        entries.pop("__metadata__", None)
        yield from (end + offset for entry in entries.values() for offset in entry["data_offsets"])


def _gguf(data: bytes, *, data_too: bool) -> Iterator[int]:
    tensors, keys = struct.unpack_from("<QQ", data, 8)
    yield from (0, 4, 8, 16, 24)
    at = 24
    alignment = 32
    for _ in range(keys):
        key_end = _string_end(data, at)
        (kind,) = struct.unpack_from("<I", data, key_end)
        if data[at + 8 : key_end] == b"general.alignment":
            (alignment,) = struct.unpack_from("<I", data, key_end + 4)
        at = _value_end(data, key_end + 4, kind)
        yield from (key_end, key_end + 4, at)
    offsets = []
    for _ in range(tensors):
        name_end = _string_end(data, at)
        (dimensions,) = struct.unpack_from("<I", data, name_end)
        at = name_end + 4 + 8 * dimensions + 4 + 8
        offsets.append(struct.unpack_from("<Q", data, at - 8)[0])
        yield from (name_end, name_end + 4, at - 12, at - 8, at)
    start = -(-at // alignment) * alignment
    yield start
    if data_too:
        yield from (start + offset for offset in offsets)
        yield len(data)


def _string_end(data: bytes, at: int) -> int:
    return at + 8 + int(struct.unpack_from("<Q", data, at)[0])


def _value_end(data: bytes, at: int, kind: int) -> int:
    if kind == _STRING:
        return _string_end(data, at)
    if kind != _ARRAY:
        return at + _SIZES[kind]
    element, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if element != _STRING:
        return at + int(count) * _SIZES[element]
    for _ in range(count):
        at = _string_end(data, at)
    return at
