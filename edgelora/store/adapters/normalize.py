"""What is kept of an adapter that is not PEFT's files alone: the same adapter as a plain PEFT folder.

The store keeps what it was given, to convert it again for other bases. One that mlx-lm trained, or that comes as a GGUF
file, is kept as PEFT, exactly or not at all. The base's trained weights and the adapter as it was before training are
not the store's to keep: what they give is of low rank, and kept in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
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
FROM_GGUF = "taken from a GGUF file as they were"
_FROM: Mapping[str, str] = {"mlx": FROM_MLX, "gguf": FROM_GGUF, "mapped": FROM_GGUF}
"""What is said of the factors of an adapter of another form than PEFT's."""


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

    kind = adapter_kind(staged.path)
    adapter = read_source(staged.path, base.shape, reading=reading or PLAIN, digest=staged.digest)
    if kind == "peft" and peft_reader.BESIDE not in adapter.metadata:
        return staged, adapter
    if kind in _FROM:
        treatment = "; ".join(filter(None, (_FROM[kind], adapter.metadata.get("treatment"))))
        adapter = replace(adapter, metadata={**adapter.metadata, "treatment": treatment})
    folder = work / RESOLVED
    write_verified(adapter, folder, to="peft", base=base)
    plain = peft_reader.read(folder, base.shape)
    files = ((name, folder / name) for name in FILES)
    stored = tuple(StoredFile(name, file_digest(path), path.stat().st_size) for name, path in files)
    return Staged(folder, folder, stored, plain.source_digest), plain
