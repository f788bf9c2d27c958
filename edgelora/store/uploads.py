"""Uploaded files on disk: what clients of the server sent to be installed. Owns their folder, its budget and expiry.

<root>/files/<id>.json    one file: its name, purpose, size, digest and end; written last
<root>/blobs/<sha256>     the bytes, shared by files of one content
<root>/tmp/.tmp-*         what is being sent or used: a kill leaves it to the sweep, and nothing refers to it
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgelora.core.errors import NotFound, StorageError
from edgelora.core.files import file_digest, inside, locked, sweep, workspace
from edgelora_models.storage import (
    discard,
    make_folder,
    move,
    size_text,
    storing,
    sync_file,
    sync_folder,
    temp_path,
    write_atomic,
)

logger = logging.getLogger(__name__)

MAX_FILES = 1000
LOCK_TIMEOUT = 60.0
"""Seconds to wait for another process's short step."""

_ID = re.compile(r"file-[0-9a-f]{24}")
_FREE_SOME = "Delete files that are not needed (DELETE /v1/files/ID), or give them more room (EDGELORA_UPLOAD_DISK)."


class UploadedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An uploaded file. Times are Unix seconds."""

    id: str
    filename: str
    """File name given by the client; never part of a path."""
    purpose: str
    nbytes: int
    digest: str
    """sha256 hex of its bytes."""
    created: float
    expires: float


class Uploads:
    """The uploads below one folder, which is made on the first write. Thread-safe and process-safe."""

    def __init__(self, root: Path, *, budget_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._budget = budget_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._flying = 0
        """Bytes that are being sent now."""

    def every(self) -> list[UploadedFile]:
        """Return the files that have not expired, oldest first."""
        now = self._clock()
        return sorted(
            (file for file in self._records() if file.expires > now), key=lambda file: (file.created, file.id)
        )

    def get(self, file_id: str) -> UploadedFile:
        """Raises NotFound; also for one that has expired."""
        file = self._read(self._record(file_id)) if _ID.fullmatch(file_id) else None
        if file is None or file.expires <= self._clock():
            raise _unknown(file_id)
        return file

    def delete(self, file_id: str) -> UploadedFile:
        """Delete a file; its bytes go too where no other file has the same. Raises NotFound."""
        with self._changing():
            file = self.get(file_id)
            self._forget(file)
            self._drop_unused()
        return file

    def begin(self) -> Incoming:
        """Take in a file: write its bytes, then `keep`; `close` in any case. Raises StorageError where no room is."""
        sweep(make_folder(self._root / "tmp"))
        self.expire()
        if len(self._record_paths()) >= MAX_FILES:
            raise StorageError("upload_budget", f"{MAX_FILES} uploaded files are kept already.", _FREE_SOME)
        incoming = Incoming(self, temp_path(self._root / "tmp"), stored=self._stored())
        incoming.check(1)
        return incoming

    def expire(self) -> None:
        """Delete what is past its end, and bytes that a kill left without a record."""
        now = self._clock()
        gone = [file for file in self._records() if file.expires <= now]
        if gone or self._unused():
            with self._changing():
                for file in gone:
                    self._forget(file)
                self._drop_unused()

    @contextmanager
    def borrowed(self, file: UploadedFile) -> Iterator[Path]:
        """Yield a file's bytes, every one checked, at a path that stays for the block whatever is deleted meanwhile.

        Raises NotFound, StorageError.
        """
        blob = self._blob(file.digest)
        with workspace(self._root / "tmp") as work:
            path = work / "upload"
            with storing(blob):
                try:
                    _link_or_copy(blob, path)
                except FileNotFoundError:
                    raise _unknown(file.id) from None
                sound = file_digest(path) == file.digest
            if not sound:
                raise StorageError("upload_damaged", f"The file {file.id} is not what was sent.", "Send it again.")
            yield path

    def workspace(self) -> AbstractContextManager[Path]:
        """Return a folder for what is sent in pieces; removed at the end of the block, or by a later sweep."""
        return workspace(self._root / "tmp")

    def claim(self, count: int, stored: int) -> None:
        """Count `count` more (or fewer) bytes as being sent. Raises StorageError where the budget has no room."""
        with self._lock:
            if count > 0 and stored + self._flying + count > self._budget:
                message = f"Uploaded files may take {size_text(self._budget)}, and {size_text(stored)} are taken."
                raise StorageError("upload_budget", message, _FREE_SOME)
            self._flying += count

    def publish(self, temp: Path, file: UploadedFile) -> None:
        """Move a synced file to its place, its record last."""
        blob = self._blob(file.digest)
        make_folder(blob.parent)
        with self._changing(), storing(blob):
            move(temp, blob)
            write_atomic(self._record(file.id), msgspec.json.encode(file))

    def now(self) -> float:
        return self._clock()

    def _changing(self) -> AbstractContextManager[None]:
        return locked(
            self._root / "uploads.lock", timeout=LOCK_TIMEOUT, busy="Another process is changing the uploads."
        )

    def _stored(self) -> int:
        folder = self._root / "blobs"
        with storing(folder):
            return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0

    def _record_paths(self) -> list[Path]:
        with storing(self._root):
            return sorted((self._root / "files").glob("file-*.json"))

    def _records(self) -> list[UploadedFile]:
        return [record for path in self._record_paths() if (record := self._read(path)) is not None]

    def _read(self, path: Path) -> UploadedFile | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=UploadedFile)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("%s is damaged and is left out: %s", path, error)
            return None

    def _forget(self, file: UploadedFile) -> None:
        path = self._record(file.id)
        with storing(path):
            path.unlink(missing_ok=True)
            sync_folder(path.parent)

    def _drop_unused(self) -> None:
        for path in self._unused():
            discard(path)

    def _unused(self) -> list[Path]:
        used = {record.digest for record in self._records()}
        folder = self._root / "blobs"
        with storing(folder):
            return [path for path in folder.iterdir() if path.name not in used] if folder.is_dir() else []

    def _record(self, file_id: str) -> Path:
        return inside(self._root / "files", f"{file_id}.json")

    def _blob(self, digest: str) -> Path:
        return inside(self._root / "blobs", digest)


class Incoming:
    """A file being sent. One thread at a time."""

    def __init__(self, uploads: Uploads, temp: Path, *, stored: int) -> None:
        self._uploads = uploads
        self._temp = temp
        self._stored = stored
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None
        self.nbytes = 0

    def check(self, count: int) -> None:
        """Raises StorageError where `count` more bytes have no room now."""
        self._uploads.claim(count, self._stored)
        self._uploads.claim(-count, self._stored)

    def write(self, data: bytes) -> None:
        """Raises StorageError: no room in the budget, or on the disk."""
        self._uploads.claim(len(data), self._stored)
        self.nbytes += len(data)
        self._digest.update(data)
        with storing(self._temp):
            if self._file is None:
                self._file = self._temp.open("xb")
            self._file.write(data)

    def sync(self) -> Path:
        """Push everything written to the disk. Nothing more may be written before `keep` or `close`."""
        if self._file is None:
            self.write(b"")
        with storing(self._temp):
            if self._file is not None and not self._file.closed:
                self._file.flush()
                sync_file(self._file.fileno())
                self._file.close()
        return self._temp

    def keep(self, *, filename: str, purpose: str, seconds: float) -> UploadedFile:
        """It is there from now on, for `seconds`. Raises StorageError; then nothing of it is."""
        temp, now = self.sync(), self._uploads.now()
        file = UploadedFile(
            id=f"file-{secrets.token_hex(12)}",
            filename=filename,
            purpose=purpose,
            nbytes=self.nbytes,
            digest=self._digest.hexdigest(),
            created=now,
            expires=now + seconds,
        )
        self._uploads.publish(temp, file)
        return file

    def close(self) -> None:
        """Whatever became of it: nothing is left but what was kept. Safe twice."""
        if self._file is not None:
            self._file.close()
        discard(self._temp)
        self._uploads.claim(-self.nbytes, self._stored)
        self.nbytes = 0


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)  # a disk without links


def _unknown(file_id: str) -> NotFound:
    return NotFound("file", file_id, (), "It was never sent, was deleted, or has expired: send it again.")
