"""Keys and values of every sequence: arrays of its own for each layer, with room at the end to grow into.

A copy shares the arrays of its source. mlx writes into an array in place where nobody else holds it, and into a copy
where somebody does: so sequences that share a beginning part by themselves, when one of them is gone on with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from edgelora.backends.mlx.matrix import Array
from edgelora_models.shape import LlamaShape

ROOM = 256
"""Tokens: an array grows by whole multiples of it, as mlx-lm's caches do."""


@dataclass(slots=True)
class _SequenceKv:
    """The keys and values of one sequence by layer: [1, kv_heads, room, head_dim], None before the first token."""

    keys: list[Array]
    values: list[Array]

    @property
    def arrays(self) -> list[Array]:
        return [*self.keys, *self.values]


@dataclass(slots=True)
class Kv:
    """Keys and values by sequence.

    Engine thread only; the caller tracks lengths, and positions beyond are undefined.
    """

    shape: LlamaShape
    dtype: Any
    """The type of activations."""
    _held: dict[int, _SequenceKv] = field(default_factory=dict)

    @property
    def token_bytes(self) -> int:
        return 2 * self.shape.layers * self.shape.kv_width * int(self.dtype.size)

    def write(self, sequence: int, layer: int, position: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Put keys and values [1, kv_heads, n, head_dim] at `position`; all up to their end."""
        held = self._held.setdefault(sequence, _SequenceKv([None] * self.shape.layers, [None] * self.shape.layers))
        end = position + keys.shape[2]
        for arrays, new in ((held.keys, keys), (held.values, values)):
            arrays[layer] = self._grown(arrays[layer], position, end)
            arrays[layer][:, :, position:end] = new
        return held.keys[layer][:, :, :end], held.values[layer][:, :, :end]

    def arrays(self, sequence: int) -> list[Array]:
        """All that is to be evaluated with a step that wrote to the sequence."""
        return self._held[sequence].arrays

    def clear(self, sequence: int) -> None:
        self._held.pop(sequence, None)

    def copy(self, source: int, target: int, length: int) -> None:
        """Each array of the copy is a view of its source's."""
        held = self._held[source]
        parts = [[array[:, :, :length] for array in arrays] for arrays in (held.keys, held.values)]
        mx.eval(parts)
        self._held[target] = _SequenceKv(*parts)

    def save(self, sequence: int, length: int) -> memoryview:
        """Layer by layer, keys before values: [layers, 2, kv_heads, length, head_dim] in the KV's own type."""
        held = self._held[sequence]
        pairs = zip(held.keys, held.values, strict=True)
        whole = mx.concatenate([array[:, :, :length] for pair in pairs for array in pair])
        if self.dtype == mx.bfloat16:  # numpy has none
            whole = whole.view(mx.uint16)
        return memoryview(np.array(whole).tobytes())

    def restore(self, sequence: int, data: memoryview, length: int) -> bool:
        """Restore saved bytes to a sequence. Return False, and change nothing, if they do not hold `length` tokens."""
        if data.nbytes != length * self.token_bytes:
            return False
        shape, size = self.shape, int(self.dtype.size)
        words = np.frombuffer(data, {2: np.uint16, 4: np.uint32}[size])
        whole = mx.array(words.reshape(2 * shape.layers, 1, shape.kv_heads, length, shape.head_dim)).view(self.dtype)
        parts = [whole[n] for n in range(2 * shape.layers)]
        mx.eval(parts)
        self._held[sequence] = _SequenceKv(parts[::2], parts[1::2])
        return True

    def _grown(self, array: Array, position: int, end: int) -> Array:
        """With room for `end` tokens, the first `position` kept."""
        if array is not None and array.shape[2] >= end:
            return array
        room = -(-end // ROOM) * ROOM
        kept = 0 if array is None else position
        fresh = mx.zeros((1, self.shape.kv_heads, room - kept, self.shape.head_dim), self.dtype)
        return fresh if array is None else mx.concatenate([array[:, :, :position], fresh], axis=2)
