"""From a folder or zip of the user's to a private copy that cannot change any more. Owns no format.

Everything after this reads the copy: what was checked is what is kept and converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.adapters.manifest import StoredFile
from edgelora.errors import UsageError
from edgelora.files import check_space, copy_hashed, make_folder, storing, suggest_name

if TYPE_CHECKING:
    from edgelora_models.shape import LlamaShape

# The copy, and a conversion to float32 of 16-bit factors.
_SPACE_FACTOR = 3


@dataclass(frozen=True, slots=True)
class Staged:
    """The PEFT files of one adapter, copied and hashed."""

    folder: Path
    files: tuple[StoredFile, ...]


def default_name(source: Path) -> str:
    """The name an adapter gets from its folder or zip. Raises UsageError where that is no usable name."""
    path = source.resolve()
    return suggest_name(path.stem if path.suffix.lower() == ".zip" else path.name, kind="adapter")


def stage(source: Path, work: Path, shape: LlamaShape) -> Staged:
    """Copy the PEFT files of a folder or .zip into the workspace `work`.

    Raises UsageError for a path that is neither, AdapterError for what may not be in one, StorageError.
    """
    from edgelora_converters import peft

    folder = _folder(source, work)
    if not all((folder / name).is_file() for name in peft.FILES):
        peft.read(folder, shape)  # says what is missing, or what is there in its place, such as a pickle
    with storing(folder):
        nbytes = sum((folder / name).stat().st_size for name in peft.FILES)
    check_space(work, nbytes * _SPACE_FACTOR, what=f"Adding {source.name}")
    copy = make_folder(work / "source")
    with storing(copy):
        return Staged(copy, tuple(StoredFile(name, *copy_hashed(folder / name, copy / name)) for name in peft.FILES))


def _folder(source: Path, work: Path) -> Path:
    if source.is_dir():
        return source
    if source.is_file() and source.suffix.lower() == ".zip":
        from edgelora_converters.archive import unpack_zip

        check_space(work, source.stat().st_size, what=f"Unpacking {source.name}")
        return unpack_zip(source, make_folder(work / "unpacked"))
    what = f"{source} is neither a folder nor a .zip." if source.exists() else f"There is no {source}."
    raise UsageError("no_such_path", what, "Name the folder or .zip that PEFT's save_pretrained wrote.")
