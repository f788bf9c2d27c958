"""Writing a base: a checkpoint to one GGUF file. Owns the base's keys and the encoding of its weights.

Needs gguf and numpy only. What is written is `base_plan`, the tokenizer's part `base_vocab`, the reading
`base_checkpoint`. Weights go through in blocks of rows, so that a base larger than memory can be converted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.base.checkpoint import Checkpoint, open_checkpoint
from edgelora_converters.base.digest import WeightDigest, content_digest, narrow
from edgelora_converters.base.plan import FILE_TYPES, PlannedTensor, Quantization, Stored, plan_tensors
from edgelora_converters.base.tokenizer import read_vocabulary
from edgelora_converters.base.vocab import add_vocabulary
from edgelora_converters.tensors.row_order import interleave
from edgelora_converters.weights.base import BLOCK_BYTES
from edgelora_models.errors import BaseError
from edgelora_models.storage import staged

if TYPE_CHECKING:
    from gguf import GGUFWriter

DIGEST_KEY = "edgelora.source_digest"
Progress = Callable[[int, int], None]
"""Bytes done and in all."""

_LARGEST: Mapping[Stored, float] = {
    "F16": 65504.0,
    "BF16": 3.3895e38,
    "Q8_0": 127 * 65504.0,
    "Q4_0": 8 * 65504.0,
    "F32": math.inf,
}
"""Beyond it a weight would become infinity: Q8_0 and Q4_0 keep a block's largest value over 127 and 8 as F16."""


def write_base_gguf(source: Path, out: Path, *, quantization: Quantization) -> None:
    """Write the Hugging Face folder `source` as the GGUF base `out`, replacing what is there, whole or not at all.

    Matrices get `quantization` (F16 where a row is no multiple of the type's block), norms and rope factors stay f32.
    The same folder gives the same bytes. Raises BaseError where the folder is no Llama this can express, StorageError
    where the file cannot be written.
    """
    with open_checkpoint(source) as checkpoint, staged(out) as temporary:
        write_checkpoint(checkpoint, temporary, quantization=quantization)


def write_checkpoint(
    checkpoint: Checkpoint,
    path: Path,
    *,
    quantization: Quantization,
    provenance: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> str:
    """Write an open checkpoint to `path` and return its digest (`content_digest`).

    With `provenance` those keys go into the file under `edgelora.`, and the digest as `edgelora.source_digest`.
    Raises BaseError, and OSError for the disk.
    """
    from gguf import GGUFWriter

    tensors = plan_tensors(checkpoint, quantization)
    vocabulary = read_vocabulary(checkpoint.folder, checkpoint.config.shape.vocab, checkpoint.config.fields)
    writer = GGUFWriter(path, "llama")
    try:
        _add_header(writer, checkpoint, tensors)
        add_vocabulary(writer, vocabulary)
        for key, value in sorted((provenance or {}).items()):
            writer.add_string(f"edgelora.{key}", value)
        if provenance is not None:
            writer.add_string(DIGEST_KEY, "0" * 64)  # known when all is read
        # Sizes first, values block by block: no tensor is in memory whole.
        for tensor in tensors:
            _add_info(writer, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        header = _opened(writer).tell()
        digest = _write_data(writer, checkpoint, tensors, progress)
    finally:
        writer.close()
    if provenance is not None:
        _set_digest(path, header, digest)
    return digest


def _add_header(writer: GGUFWriter, checkpoint: Checkpoint, tensors: list[PlannedTensor]) -> None:
    config, shape = checkpoint.config, checkpoint.config.shape
    kinds = Counter(tensor.kind for tensor in tensors if len(tensor.shape) == 2)
    writer.add_type("model")
    writer.add_file_type(FILE_TYPES[kinds.most_common(1)[0][0]])
    if kinds["Q8_0"] or kinds["Q4_0"]:
        writer.add_quantization_version(2)
    writer.add_block_count(shape.layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab)


def _add_info(writer: GGUFWriter, tensor: PlannedTensor) -> None:
    from gguf import GGMLQuantizationType

    kind = GGMLQuantizationType[tensor.kind]
    # An element type that is not uint8 lets the writer take the shape in elements.
    writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind)


def _opened(writer: GGUFWriter) -> BinaryIO:
    if not writer.fout:
        raise ValueError("the writer's header has not been written")
    file: BinaryIO = writer.fout[0]
    return file


def _write_data(
    writer: GGUFWriter, checkpoint: Checkpoint, tensors: list[PlannedTensor], progress: Progress | None
) -> str:
    """Write the data of every tensor and return the digest. GGUFWriter's own way ends in ndarray.tofile, which drops a
    full disk's error."""
    file = _opened(writer)
    done, total = 0, sum(tensor.nbytes for tensor in tensors)
    digests: dict[str, str] = {}
    for tensor in tensors:
        writer.write_padding(file, file.tell())
        read = _TensorReader(checkpoint, tensor)
        for block in read.encoded():
            file.write(block.data)
            done += block.nbytes
            if progress is not None:
                progress(done, total)
        writer.write_padding(file, tensor.nbytes)
        if tensor.source is not None:
            digests[tensor.source] = read.digest.hex
    return content_digest(digests)


class _TensorReader:
    """Reads a tensor in blocks of rows, digests them, puts them in order and encodes them."""

    def __init__(self, checkpoint: Checkpoint, tensor: PlannedTensor) -> None:
        self._checkpoint = checkpoint
        self._tensor = tensor
        self._dtype = "F32" if tensor.source is None else checkpoint.dtypes[tensor.source]
        self.digest = WeightDigest(self._dtype, tensor.shape)
        """Digest of the rows read so far."""

    def encoded(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the tensor's bytes in the file, in order."""
        tensor = self._tensor
        if tensor.source is None:
            yield self._bytes(self._rope_factors())
            return
        for rows, heads in self._blocks(tensor.source):
            self.digest.update(rows)
            yield self._bytes(interleave(rows, heads))

    def _rope_factors(self) -> NDArray[np.float32]:
        config = self._checkpoint.config
        factors = config.rope.factors(config.shape.head_dim)
        return np.empty(0, np.float32) if factors is None else factors

    def _blocks(self, source: str) -> Iterator[tuple[NDArray[np.float32], int | None]]:
        """Yield rows with the number of heads among them; a norm as one block."""
        tensor, weights = self._tensor, self._checkpoint.weights
        if len(tensor.shape) == 1:
            yield weights.read(source), None
            return
        rows, width = tensor.shape
        unit = 1 if tensor.heads is None else rows // tensor.heads
        step = unit * max(1, BLOCK_BYTES // (4 * width * unit))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield weights.rows(source, start, stop), None if tensor.heads is None else (stop - start) // unit

    def _bytes(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        kind = self._tensor.kind
        if kind == self._dtype:
            encoded: NDArray[Any] = narrow(values, kind)
        else:
            self._check_range(values)
            encoded = quantize(np.ascontiguousarray(values), GGMLQuantizationType[kind])
        return np.ascontiguousarray(encoded, encoded.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)

    def _check_range(self, values: NDArray[np.float32]) -> None:
        tensor = self._tensor
        if float(np.abs(values).max(initial=0.0)) > _LARGEST[tensor.kind]:
            message = f"The base's tensor {tensor.source} has a weight that {tensor.kind} cannot hold."
            raise BaseError("base_overflow", message, "Convert it to another type: BF16 or F32.", param=tensor.source)


def _set_digest(path: Path, header: int, digest: str) -> None:
    """Put the digest where its 64 zeros stand, in the first `header` bytes."""
    key = len(DIGEST_KEY).to_bytes(8, "little") + DIGEST_KEY.encode() + (8).to_bytes(4, "little")
    with path.open("r+b") as file:
        position = file.read(header).index(key + (64).to_bytes(8, "little") + b"0" * 64)
        file.seek(position + len(key) + 8)
        file.write(digest.encode())
