"""A version's PEFT files, kept as blobs, put together as the folder they came from. Owns neither."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgelora.core.errors import StorageError
from edgelora.core.files import inside
from edgelora.store.adapters.layout import AdapterLayout
from edgelora.store.adapters.manifest import Version
from edgelora_models.storage import make_folder, storing


def assemble(layout: AdapterLayout, name: str, version: Version, work: Path) -> Path:
    """Make the folder `source` in `work` of a version's blobs: links where the disk has them, else copies.

    The caller holds the commit lock. Raises StorageError where a file of `name` is missing.
    """
    folder = make_folder(work / "source")
    for file in version.files:
        blob = layout.blob(file.digest)
        if not blob.is_file():
            message = f"A file of {name} is missing from the store: {blob}."
            raise StorageError("store_damaged", message, "Add the adapter again from where it came.")
        with storing(folder):
            _link_or_copy(blob, inside(folder, file.name))
    return folder


def _link_or_copy(blob: Path, path: Path) -> None:
    try:
        path.hardlink_to(blob)
    except OSError:
        shutil.copyfile(blob, path)
