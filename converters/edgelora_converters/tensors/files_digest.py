"""What an adapter that is several files is known by. Owns the digest's form; which files count is each format's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from edgelora_models.errors import AdapterCorrupt
from edgelora_models.files import regular_size, unreadable


def files_digest(folder: Path, names: Iterable[str]) -> str:
    """sha256 hex over the files in `folder`, in the order given: each as name, zero byte, length (u64 little endian),
    bytes. Raises AdapterCorrupt where one is missing or no regular file, StorageError."""
    digest = hashlib.sha256()
    for name in names:
        path = folder / name
        digest.update(name.encode() + b"\0" + regular_size(path, error=AdapterCorrupt).to_bytes(8, "little"))
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as e:
            raise unreadable(path, e) from e
    return digest.hexdigest()
