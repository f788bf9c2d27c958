"""A GGUF file's header with keys added and all else as it was, byte for byte. Owns no tensor data.

The tensors stay where they are among each other: only the header grows. So a copy with some tensors' bytes replaced is
the same base for every reader, whatever keys it carries that nobody here knows.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from edgelora_models.errors import BaseError
from edgelora_models.files import unreadable
from edgelora_models.gguf_header import GgufHeader
from edgelora_models.gguf_types import VALUE_STRING

_COUNTS = 24
"""Bytes of magic, version and the two counts before the first key."""


def with_keys(path: Path, header: GgufHeader, added: Mapping[str, str]) -> bytes:
    """Return the bytes before the tensors' data, of the file at `path` whose `header` was read, with string keys
    `added`.

    Raises BaseError where the file is another one now, StorageError.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(header.data_offset)
    except OSError as e:
        raise unreadable(path, e) from e
    infos = _infos(header)
    start = _start_of(infos, raw, path, header.alignment)
    count = struct.pack("<Q", len(header.metadata) + len(added))
    keys = b"".join(_text(name) + struct.pack("<I", VALUE_STRING) + _text(value) for name, value in added.items())
    edited = raw[: _COUNTS - 8] + count + raw[_COUNTS:start] + keys + infos
    return edited + b"\0" * (-len(edited) % header.alignment)


def _infos(header: GgufHeader) -> bytes:
    """Return the tensors' infos as the format writes them: they stand between the keys and the data."""
    return b"".join(
        _text(name)
        + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        + struct.pack("<IQ", tensor.type, tensor.offset - header.data_offset)
        for name, tensor in header.tensors.items()
    )


def _start_of(infos: bytes, raw: bytes, path: Path, alignment: int) -> int:
    """Return the offset at which the infos begin, so that at most padding is between them and the data."""
    for padding in range(alignment):
        start = len(raw) - padding - len(infos)
        if raw.startswith(infos, start):
            return start
    raise BaseError("base_changed", f"{path} has changed while it was read.", "Let it be, and try again.")


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
