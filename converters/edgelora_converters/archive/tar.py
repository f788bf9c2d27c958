"""Reads a tar.gz file as an archive of an adapter. Owns the container: gzip is the library's, tar is read here.

Python's tarfile takes extended headers of any size into memory and follows links; what an adapter needs of the format
is small: files and folders with plain or long names (ustar, pax, GNU). Links, devices, pipes and sparse files are
refused. The file is inflated twice, once to see what is in it and once to take out two files; it is never kept.

Format: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgelora_converters.archive.limits import (
    BLOCK_BYTES,
    MAX_RATIO,
    MAX_TOTAL_BYTES,
    RATIO_FLOOR_BYTES,
    Budget,
    SeenNames,
    chosen,
    corrupt,
)
from edgelora_models.files import quoted, unreadable

MAX_INFLATED_BYTES = 4 * MAX_TOTAL_BYTES
"""Largest size of the whole archive, skipped members included: optimizer states may lie beside the adapter."""
MAX_EXTENDED_BYTES = 64 << 10
"""Largest extended header, which holds a long name."""

_UNIT = 512
_FILES, _FOLDER, _PAX, _PAX_GLOBAL, _LONG_NAME = (b"0", b"\0"), b"5", b"x", b"g", b"L"
_ZEROS = bytes(_UNIT)


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    """Bytes."""
    folder: bool


def unpack(path: Path, into: Path) -> None:
    """Write the adapter's two files from the tar.gz at `path` into the folder `into`. Raises as `archive.unpack`."""
    with _opened(path) as tar:
        members = chosen([member.name for member in tar.members() if not member.folder])
    targets = {member: into / name for name, member in members.items()}
    budget = Budget()
    with _opened(path) as tar:
        for member in tar.members():
            if member.name in targets:
                budget.write(targets.pop(member.name), tar.content(), claimed=member.size)
    if targets:
        raise corrupt("it changed while it was read")


@contextmanager
def _opened(path: Path) -> Iterator[_Tar]:
    """Turn what the gzip library and the system raise while reading into the project's errors."""
    try:
        with path.open("rb") as file, gzip.GzipFile(fileobj=file) as stream:
            yield _Tar(stream, compressed=os.fstat(file.fileno()).st_size)
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise corrupt(f"it is damaged ({e})") from e
    except OSError as e:
        raise unreadable(path, e) from e


class _Tar:
    """A single pass over an inflated archive."""

    def __init__(self, stream: gzip.GzipFile, *, compressed: int) -> None:
        self._stream = stream
        self._allowed = min(MAX_INFLATED_BYTES, max(RATIO_FLOOR_BYTES, MAX_RATIO * compressed))
        self._inflated = 0
        self._left = 0
        """Bytes of the present member not yet read, its padding included."""
        self._size = 0
        """Bytes of content in it."""

    def members(self) -> Iterator[_Member]:
        """Yield every file and folder, checked; what is not read of one's content is skipped before the next."""
        seen = SeenNames()
        extended: dict[str, str] = {}
        while (header := self._read(_UNIT)) != _ZEROS:
            kind, size = _check_header(header)
            if kind in (_PAX, _PAX_GLOBAL, _LONG_NAME):
                extended |= self._extension(kind, size)
                continue
            member = _member(header, kind, size, extended)
            extended = {}
            self._begin(member.size)
            if member.name or not member.folder:  # the archived folder itself, `./`, has none
                seen.check(member.name)
                yield member
            for _ in self.content():
                pass
            self._read(self._left)
            self._left = 0
        if extended:
            raise corrupt("it ends after an extended header")
        while self._take(BLOCK_BYTES):  # to the end, where gzip's checksum is
            pass

    def content(self) -> Iterator[bytes]:
        """Yield the remaining bytes of the present member."""
        while self._size:
            block = self._read(min(self._size, BLOCK_BYTES))
            self._size -= len(block)
            self._left -= len(block)
            yield block

    def _begin(self, size: int) -> None:
        self._size = size
        self._left = size + -size % _UNIT

    def _extension(self, kind: bytes, size: int) -> dict[str, str]:
        """Return the name or the records of an extended header, as pax records."""
        if size > MAX_EXTENDED_BYTES:
            raise corrupt(f"it has an extended header of {size} bytes")
        data = self._read(size + -size % _UNIT)[:size]
        if kind == _LONG_NAME:
            return {"path": _text(data.rstrip(b"\0"))}
        records = dict(_pax_records(data))
        if kind == _PAX_GLOBAL and records.keys() & {"path", "size", "linkpath"}:
            raise corrupt("a global header renames its members")
        return {} if kind == _PAX_GLOBAL else records

    def _read(self, nbytes: int) -> bytes:
        """Exactly that many inflated bytes."""
        parts = []
        while nbytes:
            part = self._take(nbytes)
            if not part:
                raise corrupt("it is cut short")
            parts.append(part)
            nbytes -= len(part)
        return b"".join(parts)

    def _take(self, nbytes: int) -> bytes:
        part = self._stream.read(nbytes)
        self._inflated += len(part)
        if self._inflated > self._allowed:
            raise corrupt(f"it inflates to more than {self._allowed} bytes")
        return part


def _check_header(header: bytes) -> tuple[bytes, int]:
    """Return the type flag and the size in a header, after checking its checksum."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _octal(header[148:156]) != total:
        raise corrupt("it is no tar file, or a header of it is damaged")
    return header[156:157], _octal(header[124:136])


def _member(header: bytes, kind: bytes, size: int, extended: dict[str, str]) -> _Member:
    name = extended.get("path") or _header_name(header)
    if any(key.startswith("GNU.sparse") for key in extended) or kind not in (*_FILES, _FOLDER):
        raise corrupt(f"the member {quoted(name)} is a link, a device or a sparse file")
    if "size" in extended:
        size = _decimal(extended["size"])
    folder = kind == _FOLDER or name.endswith("/")
    if folder and size:
        raise corrupt(f"the member {quoted(name)} is a folder with contents of its own")
    # tar writes `./` before every name where the folder was given as `.`
    return _Member(name.removeprefix("./").removesuffix("/") if name != "." else "", size, folder)


def _header_name(header: bytes) -> str:
    name, prefix = (header[start:end].partition(b"\0")[0] for start, end in ((0, 100), (345, 500)))
    # GNU's older format keeps times where ustar has the prefix.
    return _text(prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name)


def _pax_records(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the records of `length key=value` lines; the length counts the whole line."""
    while data:
        number, space, _ = data.partition(b" ")
        length = _decimal(number.decode("latin-1"))
        line = data[len(number) + 1 : length]
        key, sign, value = line.removesuffix(b"\n").partition(b"=")
        if not space or not sign or length > len(data) or not line.endswith(b"\n"):
            raise corrupt("an extended header of it is damaged")
        if key in (b"path", b"size", b"linkpath") or key.startswith(b"GNU.sparse"):
            yield _text(key), _text(value)
        data = data[length:]


def _octal(field: bytes) -> int:
    text = field.strip(b"\0 ")
    if not text or text.strip(b"01234567"):
        raise corrupt("it is no tar file, or a header of it is damaged")
    return int(text, 8)


def _decimal(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise corrupt("an extended header of it is damaged")
    return int(text)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise corrupt("the name of a member is not UTF-8") from None
