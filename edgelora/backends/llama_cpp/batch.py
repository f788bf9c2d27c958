"""One step's tokens as llama.cpp takes them, in arrays that are allocated once. Knows nothing of adapters."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp.libllama import library


class Batch:
    """Owns the memory a `llama_batch` points into. Rows are in the order the chunks are given."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        self._one_each = np.ones(capacity, np.int32)
        # llama.cpp wants a pointer to each row's list of sequences; every list here has one entry.
        starts = self._sequences.ctypes.data + 4 * np.arange(capacity)
        self._sequence_lists = starts.astype(np.uintp)

    def fill(self, chunks: Sequence[Chunk]) -> Any:
        """Return a `llama_batch` of these chunks, valid until the next call."""
        row = 0
        for chunk in chunks:
            rows = slice(row, row + len(chunk.tokens))
            self._tokens[rows] = chunk.tokens
            self._positions[rows] = np.arange(chunk.position, chunk.position + len(chunk.tokens))
            self._sequences[rows] = chunk.sequence
            self._outputs[rows] = 0
            row = rows.stop
            self._outputs[row - chunk.logits : row] = 1
        return self._native(row)

    def _native(self, rows: int) -> Any:
        lib = library()
        batch = lib.llama_batch()
        batch.n_tokens = rows
        batch.token = _pointer(self._tokens, ctypes.c_int32)
        batch.embd = None
        batch.pos = _pointer(self._positions, ctypes.c_int32)
        batch.n_seq_id = _pointer(self._one_each, ctypes.c_int32)
        batch.seq_id = _pointer(self._sequence_lists, ctypes.POINTER(ctypes.c_int32))
        batch.logits = _pointer(self._outputs, ctypes.c_int8)
        return batch


def _pointer(array: Any, kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
