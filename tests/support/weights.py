"""A base's weights as values, for tests of what is computed from them: implements BaseWeights over arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.weights.base import no_such_weight
from edgelora_models.shape import LlamaShape
from tests.support.bases import tiny_weights


class ArrayWeights:
    """`tensors` as a base of `shape`; counts the rows that were asked for at once."""

    def __init__(self, shape: LlamaShape, tensors: Mapping[str, NDArray[np.float32]], *, exact: bool = True) -> None:
        self.llama = shape
        self.exact = exact
        self.precision = "F32" if exact else "Q4_K"
        self._tensors = tensors

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def is_exact(self, name: str) -> bool:
        return self.exact or self._get(name).ndim == 1

    def shape(self, name: str) -> tuple[int, ...]:
        return self._get(name).shape

    def read(self, name: str) -> NDArray[np.float32]:
        return self._get(name).copy()

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        return self._get(name)[start:stop].copy()

    def _get(self, name: str) -> NDArray[np.float32]:
        if name not in self._tensors:
            raise no_such_weight(name)
        return self._tensors[name]


def tiny_base(shape: LlamaShape, *, seed: int, exact: bool = True) -> ArrayWeights:
    """The weights of `tests.support.bases`."""
    return ArrayWeights(shape, tiny_weights(shape, seed=seed), exact=exact)
