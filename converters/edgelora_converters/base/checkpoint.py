"""A Hugging Face Llama checkpoint to be converted: configuration, weights, dtypes. Owns that it is complete.

Everything is checked before anything is written: every shard there, every tensor in the shard the index names and in no
other, none missing, none that a Llama has not. The weights are `base_weights_hf`'s, read row by row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgelora_converters.base.config import BaseConfig, read_base_config
from edgelora_converters.tensors.safetensors_reader import (
    BASE_HEADER_BYTES,
    ITEMSIZE,
    READABLE,
    SafetensorsFile,
    open_safetensors,
)
from edgelora_converters.weights.base import BaseWeights, llama_tensors, row_blocks
from edgelora_converters.weights.hf import INDEX_NAME, MAX_INDEX_BYTES, HfWeights, weight_files
from edgelora_models.errors import BaseError
from edgelora_models.files import quoted, read_json

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_SHARD = re.compile(r".*-(\d{5})-of-(\d{5})\.safetensors")
_BUFFER = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
"""Old releases of transformers saved it; it follows from config.json."""
_REMEDY = "Fetch the base again, whole and in its original Hugging Face form."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint, sound and complete."""

    folder: Path
    files: tuple[Path, ...]
    """The safetensors files, by name."""
    config: BaseConfig
    weights: BaseWeights
    dtypes: Mapping[str, str]
    """Stored type of each weight, such as `BF16`."""

    @property
    def parameters(self) -> int:
        return sum(math.prod(self.weights.shape(name)) for name in self.weights.names)

    @property
    def nbytes(self) -> int:
        """Size of all weights as they are stored."""
        return sum(math.prod(self.weights.shape(name)) * ITEMSIZE[dtype] for name, dtype in self.dtypes.items())


@contextmanager
def open_checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """Open and check the checkpoint in `folder`; closed at the end.

    Raises BaseError: what `read_base_config` raises, `base_weights` for files and tensors that are missing, twice there
    or unknown, `base_dtype` for numbers that are no floats, `base_pickle` for a folder of pickles; StorageError.
    """
    config = read_base_config(folder)
    _refuse_pickles(folder)
    files = tuple(weight_files(folder))
    _check_set(folder, files)
    dtypes = _check_tensors(folder, files, config)
    with HfWeights(folder) as weights:
        _check_tied(weights, files, config)
        yield Checkpoint(folder, files, config, weights, dtypes)


def weights_error(what: str, param: str | None = None) -> BaseError:
    """Weights that are not those of one whole Llama."""
    return BaseError("base_weights", f"The base's weights cannot be used: {what}.", _REMEDY, param=param)


def _refuse_pickles(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")) and any(folder.glob("pytorch_model*.bin")):
        remedy = "Load it with transformers in a place you trust, and save it again (safe_serialization=True)."
        raise BaseError("base_pickle", f"{folder} holds pickles, which run code when read.", remedy)


def _check_set(folder: Path, files: tuple[Path, ...]) -> None:
    """Check that every file is there, that numbered shards are complete, and that no other file could be meant
    instead."""
    if missing := [path.name for path in files if not path.is_file()]:
        raise weights_error(f"{', '.join(missing)} of {INDEX_NAME} is not there")
    numbered = [match for path in files if (match := _SHARD.fullmatch(path.name))]
    if numbered and (len(numbered) != len(files) or len(files) != int(numbered[0][2])):
        raise weights_error(f"there are {len(numbered)} of {int(numbered[0][2])} shards, and {len(files)} files")
    if others := sorted({path.name for path in folder.glob("model*.safetensors")} - {path.name for path in files}):
        raise weights_error(f"{INDEX_NAME} does not name {', '.join(others)}")


def _check_tensors(folder: Path, files: tuple[Path, ...], config: BaseConfig) -> dict[str, str]:
    """Return the dtype of every weight, after checking names against the index and against a Llama's."""
    index = _index(folder)
    expected = llama_tensors(config.shape)
    dtypes: dict[str, str] = {}
    odd: list[str] = []
    for path in files:
        with _open(path) as file:
            for name, info in file.tensors.items():
                if name in dtypes:
                    raise weights_error(f"the tensor {quoted(name)} stands in two files", name)
                if index is not None and index.get(name) != path.name:
                    raise weights_error(f"{INDEX_NAME} does not say that {quoted(name)} is in {path.name}", name)
                dtypes[name] = info.dtype
                if name not in expected and name != HEAD and not _BUFFER.fullmatch(name):
                    odd.append(name)
    if index is not None and (missing := sorted(index.keys() - dtypes.keys())):
        raise weights_error(f"{_some(missing)} of {INDEX_NAME} stands in no file", missing[0])
    if missing := sorted(expected.keys() - dtypes.keys()):
        raise weights_error(f"{_some(missing)} is missing", missing[0])
    if odd:
        raise weights_error(f"a plain Llama has no {_some(sorted(odd))}", odd[0])
    return {name: _readable(name, dtypes[name]) for name in expected}


def _index(folder: Path) -> Mapping[str, str] | None:
    path = folder / INDEX_NAME
    return read_json(path, limit=MAX_INDEX_BYTES, error=BaseError)["weight_map"] if path.exists() else None


def _readable(name: str, dtype: str) -> str:
    if dtype not in READABLE:
        message = f"The base's tensor {name} is stored as {dtype}."
        raise BaseError("base_dtype", message, "Use the original model: F32, F16 or BF16.", param=name)
    return dtype


def _check_tied(weights: BaseWeights, files: tuple[Path, ...], config: BaseConfig) -> None:
    """Check that a head beside tied embeddings has the same numbers: transformers would not look at it."""
    if not config.shape.tied:
        return
    for path in files:
        with _open(path) as file:
            if HEAD in file.names and not _same(file, weights):
                raise weights_error("config.json ties the head to the embedding, but lm_head.weight differs", HEAD)


def _same(file: SafetensorsFile, weights: BaseWeights) -> bool:
    if file.tensors[HEAD].shape != weights.shape(EMBEDDING):
        return False
    blocks = row_blocks(weights, EMBEDDING)
    return all(np.array_equal(file.rows_f32(HEAD, first, first + len(rows)), rows) for first, rows in blocks)


def _open(path: Path) -> SafetensorsFile:
    return open_safetensors(path, max_header_bytes=BASE_HEADER_BYTES, corrupt=BaseError, unsupported=BaseError)


def _some(names: list[str]) -> str:
    """Return a few names, and how many more."""
    rest = len(names) - 3
    return ", ".join(map(quoted, names[:3])) + (f" and {rest} more" if rest > 0 else "")
