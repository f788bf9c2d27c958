"""The oracle over a base that is not in memory: each layer's weights are read, dequantized, used and forgotten.

For real bases, where `oracle_base` would need four bytes for every weight. Slow all the same: every weight is widened
once a call, whatever the number of tokens, so ask for all sequences at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.oracle.llama import Array, Case, LlamaConfig, NumpyLlama
from edgelora_converters.weights.base import BaseWeights, row_blocks


class StreamedLlama(NumpyLlama):
    """A Llama of which one layer is in memory at a time, in float32; the caller keeps `weights` open.

    An 8B's layer takes 0.9 GB. Raises BaseError and StorageError as BaseWeights does.
    """

    def __init__(self, weights: BaseWeights, config: LlamaConfig) -> None:
        super().__init__(_OneLayer(weights), config)
        self._base = weights

    def _embedded(self, case: Case) -> Array:
        name = "model.embed_tokens.weight"
        return np.concatenate([self._base.rows(name, token, token + 1) for token in case.tokens])

    def _heads_of(self, states: Sequence[Array]) -> list[Array]:
        """Compute the logits in blocks of rows: the head of a large vocabulary takes more memory than a layer."""
        together = np.concatenate(states)
        blocks = [together @ rows.T for _, rows in row_blocks(self._base, self.head)]
        ends = np.cumsum([len(x) for x in states])[:-1]
        return np.split(np.concatenate(blocks, axis=1), ends)


class _OneLayer(Mapping[str, NDArray[np.float32]]):
    """A base's weights by name; those of the layer that was asked for last are kept."""

    def __init__(self, weights: BaseWeights) -> None:
        self._base = weights
        self._layer = ""
        self._kept: dict[str, NDArray[np.float32]] = {}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        layer = ".".join(name.split(".")[:3])
        if layer != self._layer:
            self._layer, self._kept = layer, {}
        if name not in self._kept:
            self._kept[name] = self._base.read(name)
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._base.names)

    def __len__(self) -> int:
        return len(self._base.names)
