"""Detecting the kind of adapter at a path, and reading it. Each format has its own module."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgelora_converters.gguf import source as gguf_source
from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.lora.suitability import check_architecture
from edgelora_converters.mapped import source as mapped_source
from edgelora_converters.mapped.writer import KIND
from edgelora_converters.mlx import source as mlx_source
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft import config as peft_config
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft.folder import WEIGHTS_NAME, find_adapter
from edgelora_converters.peft.read_options import PLAIN, ReadOptions
from edgelora_models.errors import AdapterCorrupt
from edgelora_models.gguf_header import read_header
from edgelora_models.shape import LlamaShape

SourceKind = Literal["peft", "mlx", "gguf", "mapped"]

_MAGIC = b"GGUF"


def adapter_kind(path: Path) -> SourceKind:
    """Detect the kind of adapter: a GGUF container, a folder with MLX's tensors, or else PEFT, whose reader explains
    what is wrong."""
    if path.is_dir():
        return "mlx" if (path / mlx_writer.TENSORS_NAME).exists() and not (path / WEIGHTS_NAME).exists() else "peft"
    if not _is_gguf(path):
        return "peft"
    kind = read_header(path, error=AdapterCorrupt).metadata.get("general.type")
    return "mapped" if kind == KIND else "gguf"


def check_declared(path: Path) -> None:
    """Raise AdapterIncompatible if the header or configuration of an adapter says that it was trained on another
    architecture than Llama's: before its tensors are compared with a base, which would only say that they do not fit.
    """
    check_architecture(*declared_base(path))


def declared_base(path: Path) -> tuple[str | None, str | None]:
    """Return the name of the base that an adapter says it is for, and transformers' class of it, from what stands
    before its tensors. Raises AdapterError, StorageError."""
    match adapter_kind(path):
        case "gguf" | "mapped":
            return gguf_source.base_model(read_header(path, error=AdapterCorrupt)), None
        case _:
            return peft_config.declared_base(peft_config.read_fields(find_adapter(path, mlx=True)))


def read_source(
    path: Path, shape: LlamaShape, *, reading: ReadOptions = PLAIN, digest: str | None = None
) -> LoraAdapter:
    """Read the adapter at `path`, for a base of `shape`. `reading` is for PEFT alone: the others' factors are plain.

    `digest`: the digest of a folder's files, where the caller has it, so that they are not hashed again. Raises
    AdapterError, BaseError, StorageError.
    """
    match adapter_kind(path):
        case "mlx":
            return mlx_source.read(path, shape, digest=digest)
        case "gguf":
            return gguf_source.read(path, shape)
        case "mapped":
            return mapped_source.read(path, shape)
        case _:
            return peft_reader.read(path, shape, reading=reading, digest=digest)


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False  # whoever reads it says what is wrong
