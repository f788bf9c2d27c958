"""An adapter that can be read only with something beside its own files, rewritten so that it needs nothing else.

The store keeps what it was given, to convert it again for other bases; the base's trained weights and the adapter as it
was before training are not the store's to keep. What they give is of low rank, so it is kept as a plain PEFT adapter.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.adapters.intake import Staged
from edgelora.adapters.manifest import StoredFile
from edgelora.files import file_digest

if TYPE_CHECKING:
    from edgelora_converters.reading import Reading
    from edgelora_models.fingerprint import BaseFingerprint

RESOLVED = "resolved"
"""Where in a workspace it is written."""


def resolve(staged: Staged, work: Path, base: BaseFingerprint, reading: Reading | None) -> Staged:
    """`staged` itself where its files are enough, else the same adapter as plain factors, in the workspace `work`.

    Raises AdapterError, BaseError, ConversionFailed, StorageError.
    """
    if reading is None:
        return staged
    from edgelora_converters import peft
    from edgelora_converters.convert import write_verified
    from edgelora_converters.peft_folder import FILES

    adapter = peft.read(staged.folder, base.shape, reading=reading)
    if peft.BESIDE not in adapter.metadata:
        return staged
    folder = work / RESOLVED
    write_verified(adapter, folder, to="peft", base=base)
    sizes = ((name, folder / name) for name in FILES)
    return Staged(folder, tuple(StoredFile(name, file_digest(path), path.stat().st_size) for name, path in sizes))
