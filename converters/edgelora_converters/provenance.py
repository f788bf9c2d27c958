"""Where a converted file comes from, as it says itself: written by every writer, read back and compared by the gate.

Owns the words and where each format keeps them; the writers write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgelora_converters import mlx
from edgelora_converters.errors import ConversionFailed
from edgelora_converters.gguf import PROVENANCE_PREFIX
from edgelora_converters.lora import LoraAdapter
from edgelora_models.errors import AdapterCorrupt
from edgelora_models.files import read_json
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.gguf_header import read_header

KEYS = ("base_fingerprint", "converter_version", "fold", "source_digest")
"""What every converted file says: the base it was checked against, what made it, where the scale is, of what."""


def facts(adapter: LoraAdapter, base: BaseFingerprint, *, converter: str) -> dict[str, str]:
    """What `convert` has a writer put into a file, beside what each writer knows itself: source_digest and fold.

    Nothing in it depends on this machine: the same input gives the same file everywhere.
    """
    found = {"base_fingerprint": base.digest, "converter_version": converter}
    return found if adapter.base_model is None else found | {"trained_on": adapter.base_model}


def read_provenance(path: Path) -> dict[str, str]:
    """What a converted file (GGUF, edgelora's own) or folder (MLX) says; empty where something else made it.

    Raises AdapterCorrupt where it cannot be read at all, StorageError where the disk fails.
    """
    if path.is_dir():
        said = read_json(path / mlx.CONFIG_NAME, limit=mlx.CONFIG_LIMIT, error=AdapterCorrupt).get("edgelora")
        return {str(k): v for k, v in said.items() if isinstance(v, str)} if isinstance(said, dict) else {}
    metadata = read_header(path, error=AdapterCorrupt).metadata
    named = ((key.removeprefix(PROVENANCE_PREFIX), v) for key, v in metadata.items() if key.startswith(PROVENANCE_PREFIX))
    return {key: value for key, value in named if isinstance(value, str)}


def check_provenance(path: Path, adapter: LoraAdapter, base: BaseFingerprint) -> None:
    """Raise ConversionFailed unless the file says all of KEYS, and names this source and this base."""
    said = read_provenance(path)
    wanted = {"base_fingerprint": base.digest, "source_digest": adapter.source_digest}
    odd = [key for key in KEYS if not said.get(key) or said[key] != wanted.get(key, said[key])]
    if odd:
        what = f"{path.name} says {said.get(odd[0])!r} for edgelora.{odd[0]}, not what it was made of and for."
        raise ConversionFailed("provenance_mismatch", what, "Convert the adapter again.", param=odd[0])
