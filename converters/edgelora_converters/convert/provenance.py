"""The provenance that every writer puts into a converted file, and that the gate reads back and compares.

Owns the words and where each format keeps them; the writers write them.
"""

from __future__ import annotations

from pathlib import Path

from edgelora_converters.convert.source import adapter_kind
from edgelora_converters.errors import ConversionFailed
from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.lora.completion import NOTE
from edgelora_converters.lora.metadata import INVOCATION, ours, spelled
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft.folder import WEIGHTS_NAME
from edgelora_converters.tensors.safetensors_reader import open_safetensors
from edgelora_models.errors import AdapterCorrupt
from edgelora_models.files import read_json
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.gguf_header import read_header

KEYS = ("base_fingerprint", "converter_version", "fold", "source_digest")
"""Provenance keys of every converted file: its base, its converter, where the scale is folded, and its source."""


def facts(adapter: LoraAdapter, base: BaseFingerprint, *, converter: str) -> dict[str, str]:
    """Return the provenance that `convert` adds to what each writer knows itself (source_digest and fold).

    Nothing in it depends on this machine: the same input gives the same file everywhere.
    """
    provenance = {"base_fingerprint": base.digest, "converter_version": converter}
    if adapter.invocation:
        provenance[INVOCATION] = spelled(adapter.invocation)
    if adapter.base_model is not None:
        provenance["trained_on"] = adapter.base_model
    return provenance | {key: adapter.metadata[key] for key in ("treatment", NOTE) if key in adapter.metadata}


def read_provenance(path: Path) -> dict[str, str]:
    """Read the provenance of a converted file (GGUF, edgelora's own) or folder (MLX, PEFT); empty for other programs'
    files.

    Raises AdapterError where it cannot be read at all, StorageError where the disk fails.
    """
    match adapter_kind(path):
        case "mlx":
            section = read_json(path / mlx_writer.CONFIG_NAME, limit=mlx_writer.CONFIG_LIMIT, error=AdapterCorrupt).get(
                "edgelora"
            )
            metadata = section if isinstance(section, dict) else {}
        case "peft" if path.is_dir():
            with open_safetensors(path / WEIGHTS_NAME) as file:
                metadata = ours(file.metadata)
        case _:
            metadata = ours(read_header(path, error=AdapterCorrupt).metadata)
    return {str(key): value for key, value in metadata.items() if isinstance(value, str)}


def check_provenance(path: Path, adapter: LoraAdapter, base: BaseFingerprint) -> None:
    """Raise ConversionFailed unless the file says all of KEYS, and names this source, this base and its invocation."""
    provenance = read_provenance(path)
    expected = {"base_fingerprint": base.digest, "source_digest": adapter.source_digest}
    odd = [key for key in KEYS if not provenance.get(key) or provenance[key] != expected.get(key, provenance[key])]
    if provenance.get(INVOCATION, "") != spelled(adapter.invocation):
        odd.append(INVOCATION)
    if odd:
        message = f"{path.name} says {provenance.get(odd[0])!r} for edgelora.{odd[0]}, not what it was made of and for."
        raise ConversionFailed("provenance_mismatch", message, "Convert the adapter again.", param=odd[0])
