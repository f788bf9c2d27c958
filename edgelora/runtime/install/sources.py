"""The sources of an adapter to be installed while a base is resident, and the one way in.

What an HTTP client may name is decided where its request is read; here a source is trusted to be an allowed one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.core.errors import AdapterError, EdgeloraError
from edgelora.core.files import CHUNK, inside
from edgelora.store.adapters.warning import Checks
from edgelora_models.storage import storing

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.store.adapters.manifest import AdapterManifest, Version
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.library import Library
    from edgelora.store.uploads import UploadedFile, Uploads

MAX_DOWNLOAD_BYTES = 4 << 30
"""Maximum bytes of an adapter in a repository; the same as for one unpacked from an archive."""
UPLOADED = "upload"
"""Origin of an upload, followed by `:` and the file's id if it was a file."""
LOADED = "loaded"
"""Origin of an adapter that a client loaded from an allowed folder, or from another name."""


@dataclass(frozen=True, slots=True)
class UploadSource:
    """A zip, tar.gz or GGUF file that was uploaded."""

    file: UploadedFile

    def __str__(self) -> str:
        return self.file.id


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of the Hugging Face hub."""

    repository: str
    revision: str = "main"
    subfolder: str | None = None
    token: str | None = field(default=None, repr=False)
    """Access token of the hub; never written anywhere."""

    def __str__(self) -> str:
        at = "" if self.revision == "main" else f"@{self.revision}"
        return f"{self.repository}{at}{'/' + self.subfolder if self.subfolder else ''}"


@dataclass(frozen=True, slots=True)
class PathSource:
    """A folder or archive of this machine that the server's owner allowed."""

    path: Path

    def __str__(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class PartsSource:
    """Files that were sent in pieces: for each file name, its pieces in order. An archive is one file."""

    files: Mapping[str, tuple[Path, ...]]

    def __str__(self) -> str:
        return ", ".join(self.files)


@dataclass(frozen=True, slots=True)
class InstalledSource:
    """An installed version, to be installed under another name."""

    spec: str

    def __str__(self) -> str:
        return self.spec


Source = UploadSource | HubSource | PathSource | PartsSource | InstalledSource


@dataclass(frozen=True, slots=True)
class InstallResult:
    manifest: AdapterManifest
    version: Version


def install(
    source: Source,
    *,
    name: str,
    library: Library,
    base: BaseRecord,
    uploads: Uploads,
    progress: Progress | None = None,
    turn: AbstractContextManager[object] | None = None,
) -> InstallResult:
    """Install what `source` holds as the latest version of `name`, converted for `base`.

    `turn` is held while that is done; what a repository holds comes before. Raises UsageError, NotFound, AdapterError,
    Offline, StorageError, Busy; then nothing has changed.
    """
    turn = turn or nullcontext()
    if isinstance(source, HubSource):
        return _pulled(source, name, library, base, progress, turn)
    with turn:
        return _taken(source, name, library, base, uploads, progress)


def _taken(
    source: UploadSource | PathSource | PartsSource | InstalledSource,
    name: str,
    library: Library,
    base: BaseRecord,
    uploads: Uploads,
    progress: Progress | None,
) -> InstallResult:
    if isinstance(source, InstalledSource):
        return _copied(source, name, library, base, progress)
    if isinstance(source, UploadSource):
        with uploads.borrowed(source.file) as path, _told_as(path, source.file.filename):
            return _added(path, name, library, base, origin=f"{UPLOADED}:{source.file.id}", progress=progress)
    if isinstance(source, PartsSource):
        with uploads.workspace() as work:
            path = _put_together(source, work)
            with _told_as(path, "The upload"):
                return _added(path, name, library, base, origin=UPLOADED, progress=progress)
    with _told_as(source.path, source.path.name):
        return _added(source.path, name, library, base, origin=LOADED, progress=progress)


def _added(
    path: Path, name: str, library: Library, base: BaseRecord, *, origin: str, progress: Progress | None
) -> InstallResult:
    return InstallResult(*library.store.add(path, name=name, base=base, origin=origin, progress=progress))


def _copied(
    source: InstalledSource, name: str, library: Library, base: BaseRecord, progress: Progress | None
) -> InstallResult:
    manifest, version = library.store.resolve(source.spec)
    if manifest.name == name:
        return InstallResult(manifest, version)
    with library.store.source(manifest.name, version) as folder:
        # It was checked when it was first installed, and may have been forced then.
        checks = Checks(architecture=False)
        return InstallResult(
            *library.store.add(folder, name=name, base=base, origin=LOADED, checks=checks, progress=progress)
        )


def _put_together(source: PartsSource, work: Path) -> Path:
    """Return the archive, or the folder of the files, in the workspace `work`."""
    with storing(work):
        for name, pieces in source.files.items():
            with inside(work, name).open("xb") as out:
                for piece in pieces:
                    with piece.open("rb") as read:
                        shutil.copyfileobj(read, out, CHUNK)
    return work if len(source.files) > 1 else inside(work, *source.files)


def _pulled(
    source: HubSource,
    name: str,
    library: Library,
    base: BaseRecord,
    progress: Progress | None,
    turn: AbstractContextManager[object],
) -> InstallResult:
    from edgelora.runtime.install.pull import HubAccess, PulledAdapter, PullOptions, pull

    options = PullOptions(called=name, base=base.name, subfolder=source.subfolder)
    access = HubAccess(token=source.token, progress=progress, limit_bytes=MAX_DOWNLOAD_BYTES, turn=turn)
    pulled = pull(f"{source.repository}@{source.revision}", library=library, options=options, access=access)
    if not isinstance(pulled, PulledAdapter):
        raise AdapterError("not_an_adapter", f"{source.repository} holds no adapter.", "Name an adapter's repository.")
    return InstallResult(pulled.manifest, pulled.version)


@contextmanager
def _told_as(path: Path, name: str) -> Iterator[None]:
    """Replace the server's path by `name` in errors of the block."""
    try:
        yield
    except EdgeloraError as error:
        error.what = error.what.replace(str(path), name)
        error.args = (f"{error.what} {error.remedy}".strip(),)
        raise
