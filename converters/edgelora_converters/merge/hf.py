"""Merging into a Hugging Face folder: its shards one by one, every tensor in its own type. Owns the folder's files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import Target
from edgelora_converters.merge.gguf import numbered
from edgelora_converters.merge.rows import Changes, merged_blocks, weight_name
from edgelora_converters.merge.stored import check_type, copied, stored_rows
from edgelora_converters.tensors.safetensors_reader import (
    BASE_HEADER_BYTES,
    SafetensorsFile,
    TensorInfo,
    open_safetensors,
)
from edgelora_converters.tensors.safetensors_writer import Planned, write_safetensors
from edgelora_converters.weights.base import BaseWeights
from edgelora_converters.weights.hf import INDEX_NAME, weight_files
from edgelora_models.errors import BaseError

_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".index"})
"""Files of weights in any form; what of them is not merged would be the old base's."""


def write(
    base: Path,
    out: Path,
    weights: BaseWeights,
    changes: Changes,
    *,
    facts: Mapping[str, str],
    progress: Callable[[int], None],
) -> None:
    """Write the base with `changes` to the new folder `out`: the shards, and copies of its other files.

    `facts` go into the shards' metadata. `progress` is called with bytes written, again and again. Raises
    AdapterUnsupported for a type nothing can be rounded to here or values that leave it, BaseError, StorageError,
    OSError.
    """
    out.mkdir()
    targets = {weight_name(target): target for target in changes}
    for path in weight_files(base):
        with _open(path) as shard, path.open("rb") as source:
            for name in targets.keys() & shard.tensors.keys():
                check_type(targets[name], shard.tensors[name].dtype)
            planned = [
                _planned(name, info, source, weights, targets.get(name), changes, progress)
                for name, info in shard.tensors.items()
            ]
            metadata = {**shard.metadata, **numbered(shard.metadata, facts)}
            write_safetensors(out / path.name, planned, metadata=metadata)
    for path in _others(base):
        shutil.copyfile(path, out / path.name)


def check(base: Path, out: Path) -> None:
    """Raise BaseError unless the merged folder holds exactly the base's tensors in the base's forms."""
    written, expected = (_forms(folder) for folder in (out, base))
    if written != expected:
        raise BaseError("merge_mismatch", f"{out} does not hold the tensors of {base}.", "Merge again.")


def _others(base: Path) -> Iterable[Path]:
    """Return the configuration, tokenizer, template and licence: files beside the weights. Folders are left out."""
    kept = (path for path in sorted(base.iterdir()) if path.is_file() and not path.name.startswith("."))
    return [path for path in kept if path.name == INDEX_NAME or not _of_weights(path)]


def _of_weights(path: Path) -> bool:
    return path.suffix in _WEIGHTS or path.name.endswith(".index.json")


def _open(path: Path) -> SafetensorsFile:
    return open_safetensors(path, max_header_bytes=BASE_HEADER_BYTES, corrupt=BaseError, unsupported=BaseError)


def _forms(folder: Path) -> dict[str, list[tuple[str, str, tuple[int, ...]]]]:
    forms = {}
    for path in weight_files(folder):
        with _open(path) as file:
            forms[path.name] = [(name, info.dtype, info.shape) for name, info in file.tensors.items()]
    return forms


def _planned(
    name: str,
    info: TensorInfo,
    source: BinaryIO,
    weights: BaseWeights,
    target: Target | None,
    changes: Changes,
    progress: Callable[[int], None],
) -> Planned:
    if target is None:
        blocks = partial(_copied, source, info, progress)
    else:
        blocks = partial(_merged, weights, target, changes, info.dtype, progress)
    return Planned(name, info.dtype, info.shape, blocks)


def _copied(source: BinaryIO, info: TensorInfo, progress: Callable[[int], None]) -> Iterator[NDArray[Any]]:
    for piece in copied(source, info.offset, info.nbytes):
        yield np.frombuffer(piece, np.uint8)
        progress(len(piece))


def _merged(
    weights: BaseWeights, target: Target, changes: Changes, kind: str, progress: Callable[[int], None]
) -> Iterator[NDArray[Any]]:
    for block in merged_blocks(weights, target, changes[target]):
        stored = stored_rows(target, block.after, kind)
        yield stored
        progress(stored.nbytes)
