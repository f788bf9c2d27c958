"""Takes an adapter out of a zip file, trusting nothing in it. Owns the container; `peft` judges what comes out.

Only the two files of an adapter are ever written, under their own fixed names, straight into the caller's folder; every
other member is checked by name and skipped. Sizes are counted while inflating, never believed. Nothing is unpacked by
a library's `extractall`.
"""

from __future__ import annotations

import errno
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from edgelora_converters.peft_config import CONFIG_NAME, MAX_CONFIG_BYTES
from edgelora_converters.peft_folder import WEIGHTS_NAME, refuse_pickle
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported, StorageError, UsageError
from edgelora_models.files import quoted, regular_size, unreadable

MAX_TOTAL_BYTES = 4 << 30
"""Of both files, inflated. Rank 128 on all modules of an 8B takes 1.3 GB as float32."""
MAX_RATIO = 200
"""Inflated bytes per compressed byte, above RATIO_FLOOR. Trained weights hardly compress; JSON compresses tenfold."""
RATIO_FLOOR_BYTES = 1 << 20
MAX_MEMBERS = 1_000
MAX_DIRECTORY_BYTES = 1 << 20
"""Of the list of members at the end of the file."""

_BLOCK = 1 << 20
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
_AGAIN = "Make the zip again from the folder PEFT saved, or give the folder itself."
_END = b"PK\x05\x06"
_END_64_LOCATOR = b"PK\x06\x07"
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt"})


def source_kind(path: Path) -> Literal["folder", "zip"]:
    """Whether `path` is an adapter's folder or a zip of one, by what it is and not by its name.

    Raises UsageError where there is nothing, AdapterUnsupported for other files.
    """
    with _reading(path):
        if path.is_dir():
            return "folder"
        if not path.exists():
            raise UsageError("path_not_found", f"There is nothing at {path}.", "Give an adapter's folder or zip file.")
        if path.suffix in _PICKLES:
            raise refuse_pickle(path.name)
        regular_size(path, error=AdapterCorrupt)
        with path.open("rb") as file:
            if file.read(4) in (b"PK\x03\x04", _END):
                return "zip"
    raise AdapterUnsupported(
        "adapter_container",
        f"{path} is neither a folder nor a zip file.",
        f"Give the folder that holds {CONFIG_NAME} and {WEIGHTS_NAME}, or a zip of it.",
    )


def unpack_zip(path: Path, into: Path) -> Path:
    """Write the adapter's two files from the zip at `path` into the existing, empty folder `into`, and return it.

    Raises AdapterCorrupt (damaged, hostile, too large), AdapterUnsupported (encrypted, a pickle, another compression),
    StorageError (the disk). After an error nothing is left in `into`.
    """
    written: list[Path] = []
    try:
        with _reading(path), path.open("rb") as file:
            _check_end(file, regular_size(path, error=AdapterCorrupt))
            with zipfile.ZipFile(file) as archive:
                budget = MAX_TOTAL_BYTES
                for name, member in _choose(archive.infolist()).items():
                    written.append(into / name)
                    budget -= _copy(archive, member, into / name, limit=_limit(name, budget))
    except BaseException:
        for target in written:
            target.unlink(missing_ok=True)
        raise
    return into


def _limit(name: str, budget: int) -> int:
    return min(MAX_CONFIG_BYTES, budget) if name == CONFIG_NAME else budget


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the zip library and the system raise while reading into the project's errors."""
    try:
        yield
    except _LIBRARY_ERRORS as e:
        raise _corrupt(f"it is damaged ({e})") from e
    except OSError as e:
        if e.errno == errno.EINVAL:  # a position before the start of the file
            raise _corrupt("its members lie outside the file") from e
        raise unreadable(path, e) from e


def _corrupt(what: str) -> AdapterCorrupt:
    return AdapterCorrupt("bad_zip", f"The zip file cannot be trusted: {what}.", _AGAIN)


def _check_end(file: BinaryIO, size: int) -> None:
    """Refuse a huge list of members before the library reads it into memory."""
    tail_size = min(size, 22 + 65_535)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    file.seek(0)
    end = tail.rfind(_END)
    if end < 0 or end + 22 > len(tail):
        raise _corrupt("it has no list of members at its end; it may be cut short")
    members = int.from_bytes(tail[end + 10 : end + 12], "little")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")
    large = _END_64_LOCATOR in tail[max(0, end - 20) : end]
    if large or members > MAX_MEMBERS or directory > MAX_DIRECTORY_BYTES:
        raise _corrupt(f"it lists more than {MAX_MEMBERS} members")


def _choose(members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The two members to unpack, by the name to give them, after checking every member's name and kind."""
    seen: set[str] = set()
    for member in members:
        _check_member(member)
        folded = unicodedata.normalize("NFC", member.filename.rstrip("/")).casefold()
        if folded in seen:
            raise _corrupt(f"{quoted(member.filename)} stands in it twice")
        seen.add(folded)
    files = {member.filename: member for member in members if not member.is_dir()}
    folder = _adapter_folder(files)
    return {name: files[f"{folder}{name}"] for name in (CONFIG_NAME, WEIGHTS_NAME)}


def _check_member(member: zipfile.ZipInfo) -> None:
    # orig_filename: the library cuts names at a zero byte and turns the system's separator into a slash.
    name = member.orig_filename
    parts = PurePosixPath(name).parts
    raw_parts = name.rstrip("/").split("/")
    tricks = ("\0" in name, "\\" in name, ":" in name, name.startswith("/"), not parts)
    if any(tricks) or any(part in ("", ".", "..") for part in raw_parts):
        raise _corrupt(f"the member {quoted(name)} would lie outside its folder or has a misleading name")
    mode = stat.S_IFMT(member.external_attr >> 16)
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _corrupt(f"the member {quoted(name)} is a link or a device")
    if (member.is_dir() and member.file_size) or (mode == stat.S_IFDIR and not member.is_dir()):
        raise _corrupt(f"the member {quoted(name)} is a folder with contents of its own")


def _adapter_folder(files: dict[str, zipfile.ZipInfo]) -> str:
    """Where the adapter lies: "" for the root, or `folder/` for the one top-level folder."""
    folders = [name.removesuffix(CONFIG_NAME) for name in files if PurePosixPath(name).name == CONFIG_NAME]
    near = sorted(folder for folder in folders if folder.count("/") <= 1 and not folder.startswith("__MACOSX"))
    if "" in near:
        near = [""]
    if len(near) > 1:
        raise AdapterUnsupported(
            "zip_of_many", f"The zip file holds {len(near)} adapters: {', '.join(map(quoted, near[:5]))}.", "Zip one."
        )
    if near and f"{near[0]}{WEIGHTS_NAME}" in files:
        return near[0]
    pickle = next((name for name in files if PurePosixPath(name).suffix in _PICKLES and "adapter" in name), None)
    if near and pickle:
        raise refuse_pickle(pickle)
    missing = WEIGHTS_NAME if near else CONFIG_NAME
    raise AdapterCorrupt("adapter_missing", f"The zip file holds no {missing} at its root or in one folder.", _AGAIN)


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, *, limit: int) -> int:
    """Inflate one member into a new file; the bytes written. Stops at `limit` and at the ratio."""
    if member.flag_bits & 0x1:
        raise AdapterUnsupported("zip_encrypted", "The zip file is encrypted.", "Make it again without a password.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise AdapterUnsupported("zip_method", "The zip file uses a compression other than deflate.", _AGAIN)
    allowed = min(limit, max(RATIO_FLOOR_BYTES, MAX_RATIO * member.compress_size))
    total = 0
    with archive.open(member) as source, _create(target) as out:
        while block := source.read(_BLOCK):
            total += len(block)
            if total > allowed:
                raise _corrupt(f"{target.name} inflates to more than {allowed} bytes")
            _write(out, block)
    if total != member.file_size:
        raise _corrupt(f"{target.name} has {total} bytes, not the {member.file_size} it claims")
    return total


def _create(target: Path) -> BinaryIO:
    try:
        return target.open("xb")
    except OSError as e:
        raise _unwritable(target, e) from e


def _write(out: BinaryIO, block: bytes) -> None:
    try:
        out.write(block)
        out.flush()
    except OSError as e:
        raise _unwritable(Path(out.name), e) from e


def _unwritable(target: Path, e: OSError) -> StorageError:
    return StorageError(
        "unwritable", f"{target} cannot be written: {e.strerror}.", "Free some space or check permissions."
    )
