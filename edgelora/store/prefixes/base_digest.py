"""The digest of a base's file: what tells bases apart whose fingerprints, sizes and headers are equal.

A base's fingerprint says which adapters fit, so quantizations and fine-tunes share it, and their KV differs. Only the
bytes themselves cannot be mistaken, so they are read once (an 8B in Q4: three seconds) and the digest is remembered
with the file's size, times and inode. Any write, and any file put in its place, changes one of those: on POSIX systems
not even a copied modification time hides it, for the change time cannot be set.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from edgelora.core.errors import BaseError
from edgelora.core.files import CHUNK, inside
from edgelora.store.prefixes.origin import Digest
from edgelora_models.storage import discard, storing, write_atomic

_log = logging.getLogger(__name__)

Report = Callable[[int, int], None]
"""(bytes read, bytes in all)."""


class _FileStamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and times of a file, which show that it was changed."""

    name: str
    nbytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class _KnownDigest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    location: str
    marks: tuple[_FileStamp, ...]
    digest: Digest


class BaseDigests:
    """Remembered digests, one small file for each base, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, base: Path) -> str | None:
        """Return the digest of a base's file (or of the files right in its folder), where it need not be read for
        it."""
        try:
            record = msgspec.json.decode(self._path(base).read_bytes(), type=_KnownDigest)
            return record.digest if record.location == str(base) and record.marks == _marks(base) else None
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("the digest of %s is computed anew: %s", base, error)
            return None

    def digest(self, base: Path, report: Report | None = None) -> str:
        """Return the digest as `known` does, reading the base where needed. Raises BaseError where it changes
        meanwhile, StorageError."""
        digest = self.known(base)
        if digest is not None:
            return digest
        with storing(base):
            marks = _marks(base)
            digest = _digest(_files(base), report, sum(mark.nbytes for mark in marks))
            if _marks(base) != marks:
                raise BaseError("base_changed", f"The base at {base} changed while it was read.", "Start again.")
        write_atomic(self._path(base), msgspec.json.encode(_KnownDigest(str(base), marks, digest)))
        return digest

    def forget(self, base: Path) -> str | None:
        """Forget a base's digest and return it. The file need not be there any more."""
        try:
            record = msgspec.json.decode(self._path(base).read_bytes(), type=_KnownDigest)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        discard(self._path(base))
        return record.digest

    def _path(self, base: Path) -> Path:
        return inside(self._folder, f"{hashlib.sha256(str(base).encode()).hexdigest()[:32]}.json")


def _files(base: Path) -> list[Path]:
    return sorted(path for path in base.iterdir() if path.is_file()) if base.is_dir() else [base]


def _marks(base: Path) -> tuple[_FileStamp, ...]:
    stats = [(path.name, path.stat()) for path in _files(base)]
    return tuple(_FileStamp(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats)


def _digest(files: list[Path], report: Report | None, total: int) -> str:
    """Return the sha256 of a single file, or the digest over the names and bytes of several."""
    digest, done = hashlib.sha256(), 0
    for path in files:
        if len(files) > 1:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for part in _parts(path):
            digest.update(part)
            done += len(part)
            if report is not None:
                report(done, total)
    return digest.hexdigest()


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            yield part
