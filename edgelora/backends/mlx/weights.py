"""The tensors of an MLX base's folder, each taken once and checked: its matrices, packed or not, and its norms.

Owns what mlx-lm's files may hold. How a matrix is packed in groups is told by its shapes (each may have settings of its
own), the mode by config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from edgelora.backends.mlx.matrix import Array, Matrix
from edgelora.core.errors import BaseError
from edgelora_converters.tensors.safetensors_reader import BASE_HEADER_BYTES, open_safetensors
from edgelora_converters.weights.hf import weight_files

_AGAIN = "Get it again with `edgelora base pull`, or convert it again with `edgelora base convert`."
_BITS = frozenset({2, 3, 4, 5, 6, 8})
_OTHER_MODES = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}
"""Bits and group of the modes without biases, which have one each."""


class Tensors:
    """The tensors of a folder's files, not read before they are evaluated. `take` what is used, `evaluate` it."""

    def __init__(self, folder: Path, fields: Mapping[str, Any]) -> None:
        """`fields`: of config.json. Raises BaseError."""
        self._folder = folder
        given = fields.get("quantization")
        self._quantization: Mapping[str, Any] = given if isinstance(given, dict) else {}
        self._arrays: dict[str, Array] = {}
        for path in weight_files(folder):
            # mlx trusts what a header says of its file.
            with open_safetensors(path, max_header_bytes=BASE_HEADER_BYTES, corrupt=BaseError, unsupported=BaseError):
                pass
            try:
                arrays: Any = mx.load(str(path))
            except (RuntimeError, ValueError, OSError) as error:
                raise unreadable(folder, str(error)) from error
            self._arrays |= arrays

    def matrix(self, path: str, out: int, width: int) -> Matrix:
        """`path` is the module's, such as `model.layers.3.mlp.up_proj`. Raises BaseError."""
        weight, scales = self._take(f"{path}.weight"), self._arrays.pop(f"{path}.scales", None)
        if scales is None:
            self._check(path, weight, (out, width))
            return Matrix(weight)
        biases = self._arrays.pop(f"{path}.biases", None)
        if f"{path}.global_scale" in self._arrays:
            raise unreadable(self._folder, f"{path} has a scale over all groups, which edgelora does not compute")
        bits, group, mode = self._packing(path, weight, scales, width)
        self._check(path, weight, (out, width * bits // 32))
        self._check(path, scales, (out, width // group))
        if (biases is None) != (mode != "affine"):
            raise unreadable(self._folder, f"{path} is packed in the mode {mode} and biases do not go with it")
        return Matrix(weight, scales, biases, group, bits, mode)

    def vector(self, path: str, width: int) -> Array:
        values = self._take(f"{path}.weight")
        self._check(path, values, (width,))
        return values

    def evaluate(self, arrays: list[Array]) -> None:
        """Load these arrays into memory. Raises BaseError."""
        try:
            mx.eval(arrays)
        except RuntimeError as error:
            raise unreadable(self._folder, str(error)) from error

    def _take(self, name: str) -> Array:
        if name not in self._arrays:
            raise unreadable(self._folder, f"the tensor {name} is missing")
        return self._arrays.pop(name)

    def _packing(self, path: str, weight: Array, scales: Array, width: int) -> tuple[int, int, str]:
        own = self._quantization.get(path)
        mode = str((own if isinstance(own, dict) else self._quantization).get("mode", "affine"))
        bits, left = divmod(32 * weight.shape[-1], width)
        group = width // max(1, scales.shape[-1])
        expected = _OTHER_MODES.get(mode, (bits, group))
        if left or bits not in _BITS or (bits, group) != expected or mode not in {"affine", *_OTHER_MODES}:
            raise unreadable(self._folder, f"{path} is packed as {bits} bits in groups of {group}, mode {mode[:20]}")
        return bits, group, mode

    def _check(self, path: str, array: Array, shape: tuple[int, ...]) -> None:
        if tuple(array.shape) != shape:
            raise unreadable(self._folder, f"{path} has the shape {list(array.shape)}, not {list(shape)}")


def unreadable(folder: Path, why: str) -> BaseError:
    return BaseError("base_unreadable", f"The MLX base {folder} cannot be loaded: {why}.", _AGAIN)
