"""Maintenance of the store: reading manifests, checking digests, finding and deleting garbage. Takes no lock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgelora.core.errors import StorageError
from edgelora.core.files import file_digest, valid_name
from edgelora.store.adapters import conversions
from edgelora.store.adapters.layout import AdapterLayout
from edgelora.store.adapters.manifest import AdapterManifest, StoredFile, Version, decode_manifest
from edgelora_models.file_use import in_use
from edgelora_models.storage import discard, storing, sync_folder


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file or folder that no installed version needs."""

    path: Path
    nbytes: int
    why: str
    """`unused`, or `old converter`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing `verify` found. `remedy` says what to do."""

    path: Path
    what: str
    remedy: str


def manifest_paths(layout: AdapterLayout) -> list[Path]:
    with storing(layout.manifests):
        return sorted(path for path in layout.manifests.glob("*.json") if valid_name(path.stem))


def read_manifest(layout: AdapterLayout, name: str) -> AdapterManifest | None:
    """One adapter's manifest; None where there is none. Raises StorageError where it is damaged."""
    path = layout.manifest(name)
    try:
        with storing(path):
            data = path.read_bytes()
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return decode_manifest(data, path=path)


def every_manifest(layout: AdapterLayout) -> list[AdapterManifest]:
    """All manifests. Raises StorageError at the first damaged one: what it refers to would be unknown."""
    manifests = (read_manifest(layout, path.stem) for path in manifest_paths(layout))
    return [manifest for manifest in manifests if manifest is not None]


def delete_manifest(layout: AdapterLayout, name: str) -> None:
    path = layout.manifest(name)
    with storing(path):
        path.unlink()
        sync_folder(path.parent)


def release(layout: AdapterLayout, gone: Iterable[Version]) -> None:
    """Delete what removed versions alone used. Does nothing while a manifest is damaged: `garbage` lists it later."""
    try:
        used = _used(layout)
    except StorageError:
        return
    for version in gone:
        for file in version.files:
            if file.digest not in used:
                discard(layout.blob(file.digest))
        if version.digest not in used:
            conversions.drop(layout, layout.versions_conversions(version.digest))


def garbage(layout: AdapterLayout) -> list[Garbage]:
    """List what can be deleted: blobs and conversions that no version uses, and those of an older converter.

    A conversion that some process has mapped is left out. The caller holds the commit lock, under which a version's
    blobs and its manifest appear together. Raises StorageError where a manifest is damaged: what it uses is unknown.
    """
    used = _used(layout)
    unused = [path for path in (*layout.blobs.glob("*/*"), *layout.conversions.glob("*")) if path.name not in used]
    items = [Garbage(path, _nbytes(path), "unused") for path in unused if not _mapped(path)]
    for folder in layout.conversions.glob("*/*"):
        if folder.parent.name in used and conversions.is_outdated(folder) and not _mapped(folder):
            items.append(Garbage(folder, _nbytes(folder), "old converter"))
    return items


def collect(layout: AdapterLayout, found: Iterable[Garbage]) -> list[Garbage]:
    """Delete garbage, and return what could be deleted. The caller holds the commit lock."""
    return [item for item in found if _delete(layout, item.path)]


def _delete(layout: AdapterLayout, path: Path) -> bool:
    if path.is_dir():
        return conversions.drop(layout, path)
    discard(path)
    return not path.exists()


def _mapped(path: Path) -> bool:
    """Whether a process has mapped a file of a conversion's folder, or of a version's conversions."""
    return path.is_dir() and any(in_use(file) for file in path.rglob("*") if file.is_file())


def verify(layout: AdapterLayout) -> tuple[Problem, ...]:
    """Everything whose digest, or whose very presence, is not what was written down."""
    return tuple(_problems(layout))


def _problems(layout: AdapterLayout) -> Iterator[Problem]:
    for path in manifest_paths(layout):
        try:
            manifest = read_manifest(layout, path.stem)
        except StorageError as error:
            yield Problem(path, error.what, error.remedy)
            continue
        for version in manifest.versions if manifest else ():
            for file in version.files:
                yield from _check(layout.blob(file.digest), file, f"Add {path.stem} again from where it came.")
            for converted in conversions.every(layout, version.digest):
                for file in converted.conversion.files:
                    remedy = f"Delete {converted.folder}; it will be converted again."
                    yield from _check(conversions.stored_path(converted.folder, file), file, remedy)


def _check(path: Path, file: StoredFile, remedy: str) -> Iterator[Problem]:
    try:
        digest = file_digest(path)
    except OSError as error:
        yield Problem(path, f"{path} cannot be read: {error.strerror}.", remedy)
        return
    if digest != file.digest:
        yield Problem(path, f"{path} is not what was written.", remedy)


def _used(layout: AdapterLayout) -> set[str]:
    """Digests of all files and versions that a manifest names."""
    versions = [version for manifest in every_manifest(layout) for version in manifest.versions]
    return {version.digest for version in versions} | {file.digest for version in versions for file in version.files}


def _nbytes(path: Path) -> int:
    nbytes = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with suppress(OSError):  # Somebody else deleted it meanwhile.
            nbytes += file.stat().st_size if file.is_file() else 0
    return nbytes
