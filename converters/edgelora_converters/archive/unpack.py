"""Takes an adapter out of a zip or tar.gz file, trusting nothing in it. Owns which container a path is and that a
failure leaves nothing; `archive.zip` and `archive.tar` read them, `archive.limits` has what both hold to, `peft` judges
what comes out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgelora_converters.archive import tar as archive_tar
from edgelora_converters.archive import zip as archive_zip
from edgelora_converters.peft.config import CONFIG_NAME
from edgelora_converters.peft.folder import FILES, MLX_FILES, PICKLES, WEIGHTS_NAME, refuse_pickle
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported, UsageError
from edgelora_models.files import LFS_POINTER, refuse_pointer, regular_size, unreadable

Container = Literal["folder", "zip", "tar.gz", "gguf"]

_MAGIC: tuple[tuple[bytes, Container], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x1f\x8b", "tar.gz"),
    (b"GGUF", "gguf"),
)
_SUFFIXES = (".zip", ".tar.gz", ".tgz")


def source_kind(path: Path) -> Container:
    """Return whether `path` is an adapter's folder, a zip or tar.gz of one, or a GGUF file, by its content and not by
    its name.

    Raises UsageError where there is nothing, AdapterUnsupported for other files, AdapterCorrupt for a git-lfs pointer.
    """
    try:
        if path.is_dir():
            return "folder"
        if not path.exists():
            message = f"There is nothing at {path}."
            remedy = "Give an adapter's folder, zip, tar.gz or GGUF file. (A Hugging Face repository: edgelora pull.)"
            raise UsageError("path_not_found", message, remedy)
        if path.suffix in PICKLES:
            raise refuse_pickle(path.name)
        regular_size(path, error=AdapterCorrupt)
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except (OSError, ValueError) as e:
        raise unreadable(path, e) from e
    refuse_pointer(start, path.name, error=AdapterCorrupt)
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    raise AdapterUnsupported(
        "adapter_container",
        f"{path} is neither a folder nor a zip, tar.gz or GGUF file.",
        f"Give the folder that holds {CONFIG_NAME} and {WEIGHTS_NAME}, or a zip or tar.gz of it.",
    )


def bare_name(path: Path) -> str:
    """Return a path's name without what says that it is an archive or a GGUF file."""
    suffix = next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def unpack(path: Path, into: Path) -> Path:
    """Write the adapter's two files from the zip or tar.gz at `path` into the existing, empty folder `into`; return it.
    They are PEFT's, or mlx-lm's.

    Raises AdapterCorrupt (damaged, hostile, too large), AdapterUnsupported (encrypted, a pickle, several adapters),
    StorageError (the disk). After an error nothing is left in `into`.
    """
    reader = archive_zip if source_kind(path) == "zip" else archive_tar
    try:
        reader.unpack(path, into)
    except BaseException:
        for name in {*FILES, *MLX_FILES}:
            (into / name).unlink(missing_ok=True)
        raise
    return into
