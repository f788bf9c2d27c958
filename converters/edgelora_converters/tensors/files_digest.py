"""The digest of an adapter that is several files. Which files count is each format's business."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from edgelora_models.errors import AdapterCorrupt
from edgelora_models.files import regular_size, unreadable


class FilesDigest:
    """sha256 over files in the order given: each as name, zero byte, length (u64 little endian), bytes.

    Fed block by block, so that whoever copies the files need not read them again.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def begin(self, name: str, nbytes: int) -> None:
        """Start the next file, of `nbytes` bytes."""
        self._sha256.update(name.encode() + b"\0" + nbytes.to_bytes(8, "little"))

    def update(self, block: bytes) -> None:
        """Add the next bytes of the file that was begun last."""
        self._sha256.update(block)

    def hexdigest(self) -> str:
        """Return the digest of all files so far, as 64 hex digits."""
        return self._sha256.hexdigest()


def files_digest(folder: Path, names: Iterable[str]) -> str:
    """Return the `FilesDigest` of files in `folder`, in the order given.

    Raises AdapterCorrupt where one is missing or no regular file, StorageError.
    """
    digest = FilesDigest()
    for name in names:
        path = folder / name
        digest.begin(name, regular_size(path, error=AdapterCorrupt))
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as e:
            raise unreadable(path, e) from e
    return digest.hexdigest()
