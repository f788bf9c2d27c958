"""A base's weights from a Hugging Face folder: one safetensors file, or shards with or without an index.

Owns which file holds which tensor; the format is `safetensors_file`, the protocol `base_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.tensors.safetensors_reader import BASE_HEADER_BYTES, SafetensorsFile, open_safetensors
from edgelora_converters.weights.base import llama_tensors, no_such_weight
from edgelora_models.errors import BaseError
from edgelora_models.files import quoted, read_json, unreadable
from edgelora_models.hf_config import read_shape
from edgelora_models.shape import LlamaShape

INDEX_NAME = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20
_TRAINED = frozenset({"F64", "F32", "F16", "BF16"})


class HfWeights(AbstractContextManager["HfWeights"]):
    """The weights in `folder`, all checked to be there. See BaseWeights."""

    def __init__(self, folder: Path) -> None:
        """Raises BaseError, StorageError."""
        self.llama: LlamaShape = read_shape(folder)
        self._expected = llama_tensors(self.llama)
        self._stack = ExitStack()
        try:
            self._files = self._open(folder)
        except BaseException:
            self._stack.close()
            raise
        kinds = {file.tensors[name].dtype for name, file in self._files.items()}
        self.exact = kinds <= _TRAINED
        self.precision = ", ".join(sorted(kinds))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._expected)

    def is_exact(self, name: str) -> bool:
        return self._file(name).tensors[name].dtype in _TRAINED

    def shape(self, name: str) -> tuple[int, ...]:
        self._file(name)
        return self._expected[name]

    def read(self, name: str) -> NDArray[np.float32]:
        return self._file(name).read_f32(name)

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        return self._file(name).rows_f32(name, start, stop)

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._files:
            raise no_such_weight(name)
        return self._files[name]

    def _open(self, folder: Path) -> Mapping[str, SafetensorsFile]:
        """Return the file of every weight. What else the files hold (buffers of old releases) is left alone."""
        files: dict[str, SafetensorsFile] = {}
        for path in weight_files(folder):
            file = self._stack.enter_context(
                open_safetensors(path, max_header_bytes=BASE_HEADER_BYTES, corrupt=BaseError, unsupported=BaseError)
            )
            for name in self._expected.keys() & file.tensors.keys():
                if name in files:
                    raise _unusable(folder, f"the tensor {name} stands in two files")
                files[name] = file
        for name, shape in self._expected.items():
            _check(folder, name, shape, files.get(name))
        return files


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a base: those its index names, or where there is none every model*.safetensors.

    Raises BaseError where there are none or the index leaves the folder; StorageError.
    """
    index = folder / INDEX_NAME
    try:
        if not index.exists():
            files = sorted(folder.glob("model*.safetensors"))
            if not files:
                raise _unusable(folder, "there is no model.safetensors")
            return files
    except OSError as e:
        raise unreadable(folder, e) from e
    names = read_json(index, limit=MAX_INDEX_BYTES, error=BaseError).get("weight_map")
    if not isinstance(names, dict) or not names or not all(_is_name(name) for name in names.values()):
        raise BaseError("bad_index", f"{index} has no usable weight_map.", "Fetch the base again.")
    return [folder / name for name in sorted(set(names.values()))]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and Path(value).name == value and "\0" not in value


def _check(folder: Path, name: str, shape: tuple[int, ...], file: SafetensorsFile | None) -> None:
    if file is None:
        raise _unusable(folder, f"the tensor {name} is missing")
    tensor = file.tensors[name]
    if tensor.dtype == "U32":
        raise BaseError(
            "base_unsupported",
            f"{folder} holds an MLX build whose weights are packed ({name} is {tensor.dtype}).",
            "Give the original Hugging Face folder, or a GGUF file of the base.",
        )
    if tensor.shape != shape:
        raise _unusable(folder, f"the tensor {quoted(name)} has the shape {list(tensor.shape)}, not {list(shape)}")


def _unusable(folder: Path, why: str) -> BaseError:
    return BaseError("bad_base", f"{folder} cannot be used as a Llama: {why}.", "Fetch or convert the base again.")
