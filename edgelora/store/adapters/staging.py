"""Copying an adapter from the user's folder, zip, tar.gz or GGUF file to a private copy that cannot change any more.

Everything after this reads the copy: what was checked is what is kept and converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgelora.core.files import copy_hashed, hash_blocks, suggest_name
from edgelora.store.adapters.manifest import StoredFile
from edgelora_models.storage import check_space, make_folder, storing, sync_path

# The copy, and a conversion to float32 of 16-bit factors.
_SPACE_FACTOR = 3


@dataclass(frozen=True, slots=True)
class Staged:
    """The files of one adapter, PEFT's or mlx-lm's, or a GGUF file, copied and hashed."""

    folder: Path
    path: Path
    """What a reader takes: `folder`, or the GGUF file in it."""
    files: tuple[StoredFile, ...]
    digest: str
    """The digest of all files together, as the converters have it: what a version is known by."""


def default_name(source: Path) -> str:
    """Return the name an adapter gets from its folder (the one it is in, where that is below `source`) or its archive.

    Raises UsageError where that is no usable name, AdapterError for a folder without one adapter.
    """
    from edgelora_converters.archive.unpack import bare_name
    from edgelora_converters.peft.folder import find_adapter

    path = source.resolve()
    return suggest_name(find_adapter(path, mlx=True).name if path.is_dir() else bare_name(path), kind="adapter")


def stage(source: Path, work: Path, *, immutable: bool = False) -> Staged:
    """Copy the files of an adapter's folder, zip or tar.gz, or a GGUF file, into the workspace `work`; link them if
    `immutable`.

    Raises UsageError where there is nothing, AdapterError for what it may not be or hold, StorageError.
    """
    from edgelora_converters.archive.unpack import source_kind
    from edgelora_converters.peft.folder import folder_files

    gguf = source_kind(source) == "gguf"
    folder = source.parent if gguf else _folder(source, work)
    with storing(folder):
        names = (source.name,) if gguf else folder_files(folder)
        nbytes = sum((folder / name).stat().st_size for name in names)
    check_space(work, nbytes * _SPACE_FACTOR, what=f"Adding {source.name}")
    copy = make_folder(work / "source")
    with storing(copy):
        digest, files = _copied(folder, names, copy, link=immutable)
    return Staged(copy, copy / source.name if gguf else copy, files, digest)


def _copied(folder: Path, names: tuple[str, ...], copy: Path, *, link: bool) -> tuple[str, tuple[StoredFile, ...]]:
    """Copy or link the files; each is read once, for its own digest and for that of all of them, which is returned."""
    from edgelora_converters.tensors.files_digest import FilesDigest

    whole, files = FilesDigest(), []
    for name in names:
        source, target = folder / name, copy / name
        whole.begin(name, source.stat().st_size)
        if link and _linked(source, target):
            digest, nbytes = hash_blocks(target, whole.update)
        else:
            digest, nbytes = copy_hashed(source, target, whole.update)
        files.append(StoredFile(name, digest, nbytes))
    return whole.hexdigest(), tuple(files)


def _linked(source: Path, target: Path) -> bool:
    """Make a hard link. False on another disk, or on one without links."""
    try:
        target.hardlink_to(source)
    except OSError:
        return False
    sync_path(target)
    return True


def _folder(source: Path, work: Path) -> Path:
    from edgelora_converters.archive.unpack import source_kind, unpack
    from edgelora_converters.peft.folder import find_adapter

    if source_kind(source) == "folder":
        return find_adapter(source, mlx=True)
    check_space(work, source.stat().st_size, what=f"Unpacking {source.name}")
    return unpack(source, make_folder(work / "unpacked"))
