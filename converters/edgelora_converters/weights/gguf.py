"""A base's weights from a GGUF file: dequantized row block by row block, q and k back in Hugging Face row order.

Owns names and row order of the way back; the header's checks are `edgelora_models.gguf_base`, the arithmetic of the
quantized types the gguf package's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.tensors.row_order import deinterleave
from edgelora_converters.weights.base import BLOCK_BYTES, llama_tensors, no_such_weight
from edgelora_models import gguf_base
from edgelora_models.errors import BaseError
from edgelora_models.files import unreadable
from edgelora_models.gguf_header import GgufTensor, read_open
from edgelora_models.gguf_types import GGML_TYPES
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

_TRAINED = frozenset({"F32", "F16", "BF16"})
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True, slots=True)
class GgufName:
    """The place of a weight in a GGUF file."""

    name: str
    heads: int | None
    """The head count its rows are interleaved by, where they are."""


def gguf_names(shape: LlamaShape) -> Mapping[str, GgufName]:
    """Return, by the Hugging Face name of every weight of a Llama, its name in GGUF."""
    names = {hf: GgufName(gguf, None) for gguf, hf in _OUTER.items() if not (shape.tied and gguf == "output.weight")}
    for layer in range(shape.layers):
        for gguf, hf in _NORMS.items():
            names[f"model.layers.{layer}.{hf}.weight"] = GgufName(f"blk.{layer}.{gguf}.weight", None)
        for module in LINEAR_MODULES:
            name = GgufName(module.gguf_path(layer), module.rotary_heads(shape))
            names[f"{module.hf_path(layer)}.weight"] = name
    return names


class GgufWeights(AbstractContextManager["GgufWeights"]):
    """The weights in the GGUF file at `path`. See BaseWeights."""

    def __init__(self, path: Path) -> None:
        """Raises BaseError where it is no Llama's or unsound, StorageError."""
        try:
            self._file = path.open("rb")
        except OSError as e:
            raise unreadable(path, e) from e
        try:
            header = read_open(self._file, name=path.name, error=BaseError)
            self.llama: LlamaShape = gguf_base.read_shape(header)
        except OSError as e:
            self._file.close()
            raise unreadable(path, e) from e
        except BaseException:
            self._file.close()
            raise
        self._path = path
        self.metadata = header.metadata
        self._tensors = header.tensors
        self._names = gguf_names(self.llama)
        self._shapes = llama_tensors(self.llama)
        kinds = {GGML_TYPES[header.tensors[name.name].type].name for name in self._names.values()}
        self.exact = kinds <= _TRAINED
        matrices = {header.tensors[self._names[hf].name].type for hf, shape in self._shapes.items() if len(shape) == 2}
        self.precision = ", ".join(sorted(GGML_TYPES[kind].name for kind in matrices))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._shapes)

    def is_exact(self, name: str) -> bool:
        return GGML_TYPES[self._tensors[self._at(name).name].type].name in _TRAINED

    def shape(self, name: str) -> tuple[int, ...]:
        self._at(name)
        return self._shapes[name]

    def read(self, name: str) -> NDArray[np.float32]:
        return self.rows(name, 0, self.shape(name)[0])

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows as BaseWeights describes. Of an interleaved matrix whole heads are read: at most one more at either
        end."""
        at = self._at(name)
        if at.heads is None:
            return self._stored_rows(at.name, start, stop)
        head = self.shape(name)[0] // at.heads
        first, last = start // head, -(-stop // head)
        rows = deinterleave(self._stored_rows(at.name, first * head, last * head), last - first)
        return rows[start - first * head : stop - first * head]

    def rope_factors(self) -> tuple[float, ...] | None:
        """Return the divisors of the rotary frequencies, head_dim / 2 of them, where the file has them."""
        if "rope_freqs.weight" not in self._tensors:
            return None
        return tuple(self._stored_rows("rope_freqs.weight", 0, self.llama.head_dim // 2).tolist())

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def _at(self, name: str) -> GgufName:
        if name not in self._names:
            raise no_such_weight(name)
        return self._names[name]

    def _stored_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows in the file's own order; of a vector its elements. Dequantized in blocks, so that the packed and
        the temporary arrays stay small beside the result."""
        tensor = self._tensors[name]
        width = tensor.shape[0] if len(tensor.shape) == 2 else 1
        result = np.empty((stop - start, width), np.float32)
        step = max(1, BLOCK_BYTES // (4 * width))
        for first in range(start, stop, step):
            last = min(first + step, stop)
            result[first - start : last - start] = self._dequantized(name, tensor, first, last).reshape(-1, width)
        if not np.isfinite(result).all():
            raise self._damaged(f"the tensor {name} holds NaN or infinity")
        return result if len(tensor.shape) == 2 else result.reshape(-1)

    def _dequantized(self, name: str, tensor: GgufTensor, start: int, stop: int) -> NDArray[Any]:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        stride = tensor.nbytes // (tensor.shape[1] if len(tensor.shape) == 2 else tensor.shape[0])
        try:
            self._file.seek(tensor.offset + start * stride)
            raw = np.fromfile(self._file, dtype=np.uint8, count=(stop - start) * stride)
        except OSError as e:
            raise unreadable(self._path, e) from e
        if raw.size != (stop - start) * stride:
            raise self._damaged(f"it ends within the tensor {name}")
        try:
            values: NDArray[Any] = dequantize(raw.reshape(stop - start, stride), GGMLQuantizationType(tensor.type))
        except (NotImplementedError, ValueError):
            kind = GGML_TYPES[tensor.type].name
            raise BaseError(
                "base_unsupported",
                f"The tensor {name} of {self._path.name} is stored as {kind}, which cannot be dequantized here.",
                "Give the base in another quantization, or its Hugging Face folder.",
            ) from None
        return values

    def _damaged(self, what: str) -> BaseError:
        return BaseError("base_corrupt", f"{self._path.name} is not a sound base: {what}.", "Fetch the file again.")
