"""The file format of a saved prefix: a magic with the version, a checked header, and the KV bytes with their digest.

    MAGIC | sha256 of the header | length of the header, 4 bytes | header, JSON | payload

llama.cpp trusts what it is given to restore. So a file is believed only where all of it is as it was written, and where
it says itself that it is what was asked for. Owns the format and no folder.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np

from edgelora.core.errors import StorageError
from edgelora.core.kv import SavedKv
from edgelora.store.prefixes.origin import Digest, Origin
from edgelora_models.storage import storing

MAGIC = b"edgelora-kv\x01"
"""The last byte is the version of this format."""
_START = len(MAGIC) + 32 + 4
_MAX_HEADER = 1 << 24
_ORDER: Final = "little"


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    origin: Origin
    tokens: tuple[int, ...]
    nbytes: int
    """Size of the payload."""
    digest: Digest
    """sha256 hex of the payload."""


def seal(origin: Origin, tokens: tuple[int, ...], saved: SavedKv) -> tuple[bytes, memoryview]:
    """Return the file's two parts: everything before the payload, and the payload itself, which is not copied."""
    digest = hashlib.sha256(saved.data).hexdigest()
    header = msgspec.json.encode(Header(origin, tokens, saved.data.nbytes, digest))
    return MAGIC + hashlib.sha256(header).digest() + len(header).to_bytes(4, _ORDER) + header, saved.data


def unseal(path: Path, origin: Origin, tokens: tuple[int, ...]) -> SavedKv:
    """Return the KV in a file that must hold just these tokens of just this origin. Raises StorageError where it does
    not."""
    with storing(path), path.open("rb") as file:
        header = _header(file, path)
        if header.origin != origin or header.tokens != tokens:
            raise damaged(path, "it holds another prefix than its name says")
        size = os.fstat(file.fileno()).st_size - file.tell()
        if size != header.nbytes:
            raise damaged(path, f"{size} bytes of KV follow its header instead of {header.nbytes}")
        data = np.empty(size, np.uint8)
        if file.readinto(data.data) != size or hashlib.sha256(data.data).hexdigest() != header.digest:
            raise damaged(path, "its bytes are not those that were written")
    return SavedKv(origin.kv, len(tokens), data.data)


def _header(file: BinaryIO, path: Path) -> Header:
    start = file.read(_START)
    if len(start) != _START or not start.startswith(MAGIC):
        raise damaged(path, "it is no prefix of this version")
    length = int.from_bytes(start[-4:], _ORDER)
    data = file.read(min(length, _MAX_HEADER))
    if len(data) != length or hashlib.sha256(data).digest() != start[len(MAGIC) : -4]:
        raise damaged(path, "its header is cut off or changed")
    try:
        return msgspec.json.decode(data, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        "prefix_damaged", f"{path} is damaged: {why}.", "It is computed and kept again when it is used."
    )
