"""The limits on every archive of an adapter (names and sizes), and the writing of its two files. Owns no format.

Only the two files of an adapter are ever written, under their own fixed names, straight into the caller's folder; every
other member is checked by name and skipped. Sizes are counted while inflating, never believed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgelora_converters.peft.config import CONFIG_NAME, MAX_CONFIG_BYTES
from edgelora_converters.peft.folder import adapter_files, adapter_folder
from edgelora_models.errors import AdapterCorrupt, StorageError
from edgelora_models.files import quoted

MAX_TOTAL_BYTES = 4 << 30
"""Largest size of both files, inflated. Rank 128 on all modules of an 8B takes 1.3 GB as float32."""
MAX_RATIO = 200
"""Inflated bytes per compressed byte, above RATIO_FLOOR_BYTES. Trained weights hardly compress; JSON does tenfold."""
RATIO_FLOOR_BYTES = 1 << 20
MAX_MEMBERS = 1_000
BLOCK_BYTES = 1 << 20


def corrupt(what: str) -> AdapterCorrupt:
    """Return the error for an archive that is damaged or hostile."""
    remedy = "Make it again from the folder PEFT saved, or give the folder itself."
    return AdapterCorrupt("bad_archive", f"The archive cannot be trusted: {what}.", remedy)


class SeenNames:
    """The names of an archive's members so far, each checked."""

    def __init__(self) -> None:
        self._folded: set[str] = set()

    def check(self, name: str) -> None:
        """Raise unless `name` stays in its folder, means the same everywhere, and is new whatever the case."""
        tricks = ("\0" in name, "\\" in name, ":" in name, name.startswith("/"))
        if any(tricks) or any(part in ("", ".", "..") for part in name.rstrip("/").split("/")):
            raise corrupt(f"the member {quoted(name)} would lie outside its folder or has a misleading name")
        folded = unicodedata.normalize("NFC", name.rstrip("/")).casefold()
        if folded in self._folded:
            raise corrupt(f"{quoted(name)} stands in it twice")
        self._folded.add(folded)
        if len(self._folded) > MAX_MEMBERS:
            raise too_many()


def too_many() -> AdapterCorrupt:
    return corrupt(f"it lists more than {MAX_MEMBERS} members")


def chosen(names: Iterable[str]) -> dict[str, str]:
    """Choose the members to unpack: by the name each gets, its name in the archive."""
    files = set(names)
    folder = adapter_folder(files, where="The archive", depth=2, mlx=True)
    return {name: f"{folder}{name}" for name in adapter_files(files, folder)}


class Budget:
    """The number of bytes that may still be written."""

    def __init__(self) -> None:
        self._left = MAX_TOTAL_BYTES

    def write(self, target: Path, blocks: Iterator[bytes], *, claimed: int, compressed: int | None = None) -> None:
        """Write one member, of `claimed` bytes, into the new file `target`; `compressed` bounds it by the ratio."""
        limit = min(self._left, MAX_CONFIG_BYTES if target.name == CONFIG_NAME else self._left)
        if compressed is not None:
            limit = min(limit, max(RATIO_FLOOR_BYTES, MAX_RATIO * compressed))
        if (total := _write(target, blocks, limit)) != claimed:
            raise corrupt(f"{target.name} has {total} bytes, not the {claimed} it claims")
        self._left -= total


def _write(target: Path, blocks: Iterator[bytes], limit: int) -> int:
    total = 0
    with _create(target) as out:
        for block in blocks:
            total += len(block)
            if total > limit:
                raise corrupt(f"{target.name} inflates to more than {limit} bytes")
            try:
                out.write(block)
                out.flush()
            except OSError as e:
                raise _unwritable(target, e) from e
    return total


def _create(target: Path) -> BinaryIO:
    try:
        return target.open("xb")
    except OSError as e:
        raise _unwritable(target, e) from e


def _unwritable(target: Path, e: OSError) -> StorageError:
    return StorageError(
        "unwritable", f"{target} cannot be written: {e.strerror}.", "Free some space or check permissions."
    )
