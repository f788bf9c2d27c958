"""Adapters of a hub's repositories, kept below the cache: brought once, checked, and there without a network.

Owns the cached files and what is remembered of each repository. What is installed is the store's; losing this folder
costs a download.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgelora.core.errors import AdapterUnsupported, UsageError
from edgelora.core.files import inside, locked
from edgelora.store.hub.download import Checksum, OpenRange, RemoteFile, download_all
from edgelora_models.storage import discard, size_text, storing, write_atomic

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.store.hub.client import Listing

logger = logging.getLogger(__name__)

BUSY_TIMEOUT = 2.0
"""Seconds to wait for another process that downloads the same adapter."""

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@(.+))?")


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """An adapter in a repository."""

    repository: str
    """organization/name"""
    revision: str = "main"
    """A branch, tag or commit."""
    subfolder: str | None = None
    """Folder of the adapter in the repository; None for the root, or for the only folder with an adapter."""

    @classmethod
    def parse(cls, text: str, subfolder: str | None = None) -> CacheRequest | None:
        """Parse `organization/name[@revision]`; None for anything else."""
        match = _NAME.fullmatch(text)
        return None if match is None else cls(match[1], match[2] or "main", subfolder and subfolder.strip("/"))

    def of(self, names: Collection[str]) -> list[str]:
        """Return those of a repository's file names that are relevant, without the subfolder."""
        start = "" if self.subfolder is None else f"{self.subfolder}/"
        return [name.removeprefix(start) for name in names if name.startswith(start)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    checksum: Checksum
    nbytes: int


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The latest pull for one `CacheRequest`."""

    repository: str
    revision: str
    subfolder: str | None
    commit: str
    content: str
    """Folder below the repository's."""
    files: tuple[_File, ...]
    created: float
    """Unix seconds."""
    schema: int = 1


@dataclass(frozen=True, slots=True)
class Fetched:
    """An adapter's two files in the cache, checked."""

    folder: Path
    origin: str
    """`hub:<repository>@<commit>`, as a base's record has it."""
    fetched: float
    """Time of the pull, Unix seconds."""


class AdapterCache:
    """The cache below one folder, which is made on the first write. Thread-safe and process-safe."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._clock = clock

    def fetch(
        self,
        request: CacheRequest,
        listing: Listing,
        *,
        open_range: OpenRange,
        progress: Progress | None = None,
        pause: Callable[[float], None] = time.sleep,
        limit_bytes: int | None = None,
    ) -> Fetched:
        """Bring the adapter of a listing here, going on where an earlier call stopped; what is here is checked again.

        Raises AdapterError where the repository holds no one adapter or one over `limit_bytes`, Offline where the
        connection fails for good, BaseError where the bytes are not what the hub says, Busy where another process is
        at it, StorageError.
        """
        files = _choose(request, listing)
        _check_size(request, files, limit_bytes)
        place = self._place(request.repository)
        content = hashlib.sha256("\n".join(f"{file.checksum.value} {name}" for name, file in files.items()).encode())
        folder = inside(place, content.hexdigest()[:16])
        busy = f"Another process is downloading {request.repository}."
        with locked(place / "pull.lock", timeout=BUSY_TIMEOUT, busy=busy):
            targets = [(file, folder / name) for name, file in files.items()]
            for file, target in targets:
                if not _sound(target, file.checksum, file.nbytes):
                    discard(target)
            download_all(targets, name=request.repository, open_range=open_range, progress=progress, pause=pause)
            record = _Record(
                repository=request.repository,
                revision=request.revision,
                subfolder=request.subfolder,
                commit=listing.commit,
                content=folder.name,
                files=tuple(_File(name, file.checksum, file.nbytes) for name, file in files.items()),
                created=self._clock(),
            )
            write_atomic(self._record_path(request), msgspec.json.encode(record))
            self._drop_unused(place)
        return self._fetched(record)

    def find(self, request: CacheRequest) -> Fetched | None:
        """Return what an earlier `fetch` brought, every byte checked; None if it is missing or damaged."""
        for record in self._records(self._place(request.repository)):
            same = (record.repository, record.subfolder) == (request.repository, request.subfolder)
            if same and request.revision in (record.revision, record.commit):
                fetched = self._fetched(record)
                if all(_sound(fetched.folder / file.name, file.checksum, file.nbytes) for file in record.files):
                    return fetched
        return None

    def _fetched(self, record: _Record) -> Fetched:
        folder = inside(self._place(record.repository), record.content)
        return Fetched(folder, f"hub:{record.repository}@{record.commit}", record.created)

    def _place(self, repository: str) -> Path:
        return inside(self._root, repository.replace("/", "--"))

    def _record_path(self, request: CacheRequest) -> Path:
        # A revision may hold what no file's name may.
        key = hashlib.sha256(f"{request.revision}\0{request.subfolder or ''}".encode()).hexdigest()
        return self._place(request.repository) / f"{key[:16]}.json"

    def _records(self, place: Path) -> Iterator[_Record]:
        with storing(place):
            paths = sorted(place.glob("*.json"))
        for path in paths:
            try:
                yield msgspec.json.decode(path.read_bytes(), type=_Record)
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                logger.warning("%s is damaged and is not used: %s", path, error)

    def _drop_unused(self, place: Path) -> None:
        """Delete what no record speaks of any more."""
        used = {record.content for record in self._records(place)}
        with storing(place):
            stale = [path for path in place.iterdir() if path.is_dir() and path.name not in used]
        for path in stale:
            discard(path)


def holds_adapter(request: CacheRequest, names: Collection[str]) -> bool:
    """Return whether files of these names are an adapter's, or claim to be."""
    from edgelora_converters.peft.config import CONFIG_NAME

    return any(name.rpartition("/")[2] == CONFIG_NAME and name.count("/") <= 1 for name in request.of(names))


def _choose(request: CacheRequest, listing: Listing) -> dict[str, RemoteFile]:
    """Return the adapter's two files, PEFT's or mlx-lm's, by the names they get here."""
    from edgelora_converters.peft.folder import adapter_files, adapter_folder

    if request.subfolder is not None and not request.of(listing.files):
        folders = ", ".join(sorted({name.partition("/")[0] for name in listing.files if "/" in name})[:20])
        message = f"{request.repository} has no folder {request.subfolder}."
        raise UsageError("no_subfolder", message, f"Its folders are: {folders}." if folders else "")
    names = request.of(listing.files)
    try:
        folder = adapter_folder(names, where=request.repository, depth=1, mlx=True)
    except AdapterUnsupported as error:
        remedy = "Say which one: --subfolder NAME." if error.code == "adapter_many" else error.remedy
        raise AdapterUnsupported(error.code, error.what, remedy) from error
    start = folder if request.subfolder is None else f"{request.subfolder}/{folder}"
    return {name: listing.files[f"{start}{name}"] for name in adapter_files(names, folder)}


def _check_size(request: CacheRequest, files: dict[str, RemoteFile], limit: int | None) -> None:
    nbytes = sum(file.nbytes for file in files.values())
    if limit is not None and nbytes > limit:
        message = f"The adapter in {request.repository} has {size_text(nbytes)}; at most {size_text(limit)} are taken."
        raise AdapterUnsupported("adapter_download_too_large", message, "Pull it by hand: edgelora pull.")


def _sound(path: Path, checksum: Checksum, nbytes: int) -> bool:
    with storing(path):
        return path.is_file() and path.stat().st_size == nbytes and checksum.matches(path)
