"""Downloading a file from a hub: in ranges, resumed after a cut or a kill, checked before it is published.

huggingface_hub itself starts an interrupted file again from nothing (from 1.18 on), which on a 5 GB base over Wi-Fi
means never. The bytes that are there lie in `<file>.part`, what they are the beginning of in `<file>.part.json`.
Owns these two; the caller guards them with a lock. Speaks no HTTP: see `hub`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec

from edgelora.core.errors import BaseError, Offline
from edgelora.core.files import CHUNK
from edgelora.core.progress import Progress
from edgelora_models.storage import check_space, discard, make_folder, move, size_text, storing, sync_file, write_atomic

ATTEMPTS = 5
"""Failures in a row, without a byte gained, after which a download gives up. What is there stays."""
MAX_PAUSE = 30.0
"""Seconds between two attempts at most."""
SYNC_BYTES = 64 << 20
"""Bytes written between two syncs, which a power cut may cost."""


class Interrupted(Exception):
    """The connection or the server failed in a way that may pass. `retry_after` seconds where the server said so."""

    def __init__(self, why: str, *, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Checksum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The digest that the hub gives for a file: sha256 for large files, git's blob id for small ones."""

    kind: Literal["sha256", "git"]
    value: str

    def begin(self, nbytes: int) -> hashlib._Hash:
        if self.kind == "sha256":
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % nbytes, usedforsecurity=False)

    def matches(self, path: Path) -> bool:
        """Return whether a file has this digest. Raises OSError."""
        running = self.begin(path.stat().st_size)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                running.update(chunk)
        return running.hexdigest() == self.value


@dataclass(frozen=True, slots=True)
class RemoteFile:
    name: str
    """Path in its repository."""
    url: str
    nbytes: int
    checksum: Checksum


@dataclass(frozen=True, slots=True)
class Reply:
    """A hub's answer to a request for the bytes from some position on."""

    start: int | None
    """Position of the first byte; None where the server says there is nothing at that position (416)."""
    total: int | None
    """Bytes of the whole file, where said."""
    etag: str | None
    chunks: Iterator[bytes]


class OpenRange(Protocol):
    def __call__(self, url: str, *, start: int, etag: str | None) -> AbstractContextManager[Reply]:
        """Ask for a file from `start` on, if it is still the one of `etag`. Raises Interrupted, also while
        reading."""
        ...


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The side file: whose beginning the part is."""

    checksum: Checksum
    nbytes: Annotated[int, msgspec.Meta(ge=0)]
    etag: str | None


class _Part:
    """The bytes so far and their running hash."""

    def __init__(self, file: RemoteFile, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._side = target.with_name(f"{target.name}.part.json")
        self._file = file
        state = self._read_state()
        self.etag = state.etag if state else None
        self.nbytes = 0
        self._hash = file.checksum.begin(file.nbytes)
        if state is None:
            discard(self.path)
        with storing(self.path):
            self._hash_present()
            self._out = self.path.open("ab", buffering=0)

    def restart(self, etag: str | None) -> None:
        """Begin again from nothing, with what the server has now."""
        with storing(self.path):
            self._out.truncate(0)
        self.nbytes, self.etag = 0, etag
        self._hash = self._file.checksum.begin(self._file.nbytes)
        state = _State(self._file.checksum, self._file.nbytes, etag)
        write_atomic(self._side, msgspec.json.encode(state))

    def append(self, chunk: bytes) -> None:
        with storing(self.path):
            view = memoryview(chunk)
            while view:
                view = view[self._out.write(view) :]
            before, self.nbytes = self.nbytes, self.nbytes + len(chunk)
            if before // SYNC_BYTES != self.nbytes // SYNC_BYTES:
                sync_file(self._out.fileno())
        self._hash.update(chunk)

    def matches(self) -> bool:
        return self._hash.hexdigest() == self._file.checksum.value

    def publish(self, target: Path) -> None:
        with storing(target):
            sync_file(self._out.fileno())
            self._out.close()
            move(self.path, target)
        discard(self._side)

    def delete(self) -> None:
        self._out.close()
        discard(self.path)
        discard(self._side)

    def close(self) -> None:
        self._out.close()

    def _read_state(self) -> _State | None:
        """Return the side file, where it speaks of this very file and the part is there."""
        try:
            state = msgspec.json.decode(self._side.read_bytes(), type=_State)
            nbytes = self.path.stat().st_size
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        same = (state.checksum, state.nbytes) == (self._file.checksum, self._file.nbytes)
        return state if same and nbytes <= state.nbytes else None

    def _hash_present(self) -> None:
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK):
                self._hash.update(chunk)
                self.nbytes += len(chunk)


def part_bytes(target: Path) -> int:
    """Return the bytes of a file that are already here, published or in part."""
    for path in (target, target.with_name(f"{target.name}.part")):
        if path.is_file():
            return path.stat().st_size
    return 0


def download_all(
    files: Sequence[tuple[RemoteFile, Path]],
    *,
    name: str,
    open_range: OpenRange,
    progress: Progress | None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Call `download` for each file and its place, after a look at the disk's space; `progress` counts over all of
    them."""
    total = sum(file.nbytes for file, _ in files)
    there = sum(part_bytes(target) for _, target in files)
    check_space(files[0][1].parent, total - there, what=f"The download of {name}")
    done = 0
    for file, target in files:
        download(file, target, open_range=open_range, progress=_counting(name, done, total, progress), pause=pause)
        done += file.nbytes


def _counting(name: str, before: int, total: int, progress: Progress | None) -> Callable[[int], None]:
    label = f"Downloading {name}"

    def count(nbytes: int) -> None:
        if progress is not None:
            progress(label, before + nbytes, total)

    return count


def download(
    file: RemoteFile,
    target: Path,
    *,
    open_range: OpenRange,
    progress: Callable[[int], None],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Bring `file` to `target`, going on from what an earlier call left. `progress` is called with bytes present.

    Raises Offline where the connection fails for good (the part stays), BaseError where the bytes are not the file the
    hub described (the part is deleted), StorageError.
    """
    make_folder(target.parent)
    if target.is_file() and target.stat().st_size == file.nbytes:
        progress(file.nbytes)  # only checked files get this name
        return
    part = _Part(file, target)
    try:
        _fill(part, file, open_range=open_range, progress=progress, pause=pause)
        if not part.matches():
            raise _wrong(part, file, "does not have the checksum the hub gives for it")
        part.publish(target)
    finally:
        part.close()


def _fill(
    part: _Part,
    file: RemoteFile,
    *,
    open_range: OpenRange,
    progress: Callable[[int], None],
    pause: Callable[[float], None],
) -> None:
    failures = 0
    progress(part.nbytes)
    while part.nbytes < file.nbytes:
        before = part.nbytes
        try:
            _transfer(part, file, open_range, progress)
            if part.nbytes < file.nbytes:
                raise Interrupted("the answer ended early")
        except Interrupted as error:
            failures = 1 if part.nbytes > before else failures + 1
            if failures >= ATTEMPTS:
                raise _gave_up(part, file, error) from error
            pause(min(error.retry_after or 2.0 ** (failures - 1), MAX_PAUSE))


def _transfer(part: _Part, file: RemoteFile, open_range: OpenRange, progress: Callable[[int], None]) -> None:
    """Receive the bytes of one request."""
    with open_range(file.url, start=part.nbytes, etag=part.etag) as reply:
        if reply.start is not None and reply.total != file.nbytes:
            # A login page in the way, say. What is there is worth more than this answer.
            raise Interrupted(f"the answer has {reply.total} bytes, the file {file.nbytes}")
        if _foreign(reply, part):
            part.restart(None)  # the next request asks for all of it
            raise Interrupted("the file on the server has changed")
        if reply.start == 0:
            part.restart(reply.etag)
        for chunk in reply.chunks:
            if part.nbytes + len(chunk) > file.nbytes:
                raise _wrong(part, file, "is longer than the hub says")
            part.append(chunk)
            progress(part.nbytes)


def _foreign(reply: Reply, part: _Part) -> bool:
    """Return whether an answer is neither a continuation of the part nor a new beginning."""
    if reply.start == 0:
        return False
    return reply.start != part.nbytes or (None not in (reply.etag, part.etag) and reply.etag != part.etag)


def _wrong(part: _Part, file: RemoteFile, how: str) -> BaseError:
    part.delete()
    message = f"What was downloaded as {file.name} {how}; it was thrown away."
    return BaseError("download_corrupt", message, "Pull again; if it happens again, check HF_ENDPOINT and the proxy.")


def _gave_up(part: _Part, file: RemoteFile, error: Interrupted) -> Offline:
    there, all_of_it = size_text(part.nbytes), size_text(file.nbytes)
    message = f"The download of {file.name} was interrupted: {error}. {there} of {all_of_it} are kept."
    return Offline("download_interrupted", message, "Run the same command again: it goes on from there.")
