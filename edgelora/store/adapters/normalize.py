"""What is kept of an adapter that is not PEFT's files alone: the same adapter as a plain PEFT folder.

The store keeps what it was given, to convert it again for other bases. One that mlx-lm trained is kept as PEFT, exactly
or not at all. The base's trained weights and the adapter as it was before training are not the store's to keep: what
they give is of low rank, and kept in their place.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.core.files import file_digest
from edgelora.store.adapters.manifest import StoredFile
from edgelora.store.adapters.staging import Staged

if TYPE_CHECKING:
    from edgelora_converters.lora.adapter import LoraAdapter
    from edgelora_converters.peft.read_options import ReadOptions
    from edgelora_models.fingerprint import BaseFingerprint

RESOLVED = "resolved"
"""Where in a workspace it is written."""
FROM_MLX = "taken from mlx-lm's form as they were"
"""What is said of the factors of such an adapter."""


def resolve(
    staged: Staged, work: Path, base: BaseFingerprint, reading: ReadOptions | None
) -> tuple[Staged, LoraAdapter]:
    """Read the staged adapter, and return it with the files to keep.

    Those are `staged` itself where its files are enough, else the same adapter as plain factors, written to the
    workspace `work`. Raises AdapterError, BaseError, ConversionFailed, StorageError.
    """
    from edgelora_converters.convert.convert import write_verified
    from edgelora_converters.convert.source import adapter_kind, read_source
    from edgelora_converters.peft import reader as peft_reader
    from edgelora_converters.peft.folder import FILES
    from edgelora_converters.peft.read_options import PLAIN

    mlx = adapter_kind(staged.folder) == "mlx"
    adapter = read_source(staged.folder, base.shape, reading=reading or PLAIN, digest=staged.digest)
    if not mlx and peft_reader.BESIDE not in adapter.metadata:
        return staged, adapter
    if mlx:
        adapter = replace(adapter, metadata={**adapter.metadata, "treatment": FROM_MLX})
    folder = work / RESOLVED
    write_verified(adapter, folder, to="peft", base=base)
    plain = peft_reader.read(folder, base.shape)
    files = ((name, folder / name) for name in FILES)
    stored = tuple(StoredFile(name, file_digest(path), path.stat().st_size) for name, path in files)
    return Staged(folder, stored, plain.source_digest), plain
