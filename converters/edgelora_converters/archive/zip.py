"""Reads a zip file as an archive of an adapter. Owns the container; nothing is unpacked by a library's `extractall`."""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgelora_converters.archive.limits import BLOCK_BYTES, MAX_MEMBERS, Budget, SeenNames, chosen, corrupt, too_many
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported
from edgelora_models.files import quoted, regular_size, unreadable

MAX_DIRECTORY_BYTES = 1 << 20
"""Largest central directory, the list of members at the end of the file."""

# What zipfile lets through for damaged files, found by mutating them.
_LIBRARY_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_END = b"PK\x05\x06"
_END_64_LOCATOR = b"PK\x06\x07"


def unpack(path: Path, into: Path) -> None:
    """Write the adapter's two files from the zip at `path` into the folder `into`. Raises as `archive.unpack` does."""
    budget = Budget()
    with _reading(path), path.open("rb") as file:
        _check_end(file, regular_size(path, error=AdapterCorrupt))
        with zipfile.ZipFile(file) as archive:
            members = _members(archive.infolist())
            for name, member in chosen(members).items():
                _unpack_member(archive, members[member], into / name, budget)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the zip library and the system raise while reading into the project's errors."""
    try:
        yield
    except _LIBRARY_ERRORS as e:
        raise corrupt(f"it is damaged ({e})") from e
    except OSError as e:
        if e.errno == errno.EINVAL:  # a position before the start of the file
            raise corrupt("its members lie outside the file") from e
        raise unreadable(path, e) from e


def _check_end(file: BinaryIO, size: int) -> None:
    """Refuse a huge list of members before the library reads it into memory."""
    tail_size = min(size, 22 + 65_535)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    file.seek(0)
    end = tail.rfind(_END)
    if end < 0 or end + 22 > len(tail):
        raise corrupt("it has no list of members at its end; it may be cut short")
    members = int.from_bytes(tail[end + 10 : end + 12], "little")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")
    large = _END_64_LOCATOR in tail[max(0, end - 20) : end]
    if large or members > MAX_MEMBERS or directory > MAX_DIRECTORY_BYTES:
        raise too_many()


def _members(infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Return the files by name, after checking every member's name and kind.

    Windows PowerShell 5.1 writes `\\` between the folders of a name. It is read as `/` before anything is checked.
    """
    seen, files = SeenNames(), {}
    for info in infos:
        # orig_filename: the library cuts names at a zero byte and turns the system's separator into a slash.
        name = info.orig_filename.replace("\\", "/")
        seen.check(name)
        mode, folder = stat.S_IFMT(info.external_attr >> 16), name.endswith("/")
        if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise corrupt(f"the member {quoted(name)} is a link or a device")
        if (folder and info.file_size) or (mode == stat.S_IFDIR and not folder):
            raise corrupt(f"the member {quoted(name)} is a folder with contents of its own")
        if not folder:
            files[name] = info
    return files


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, budget: Budget) -> None:
    again = "Make it again with deflate and without a password."
    if member.flag_bits & 0x1:
        raise AdapterUnsupported("zip_encrypted", "The zip file is encrypted.", again)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise AdapterUnsupported("zip_method", "The zip file uses a compression other than deflate.", again)
    with archive.open(member) as source:
        blocks = iter(lambda: source.read(BLOCK_BYTES), b"")
        budget.write(target, blocks, claimed=member.file_size, compressed=member.compress_size)
