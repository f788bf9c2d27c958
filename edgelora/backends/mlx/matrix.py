"""One weight matrix of a resident base, as it is stored: in a float type, or packed in groups with scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

Array = Any
"""An mlx array."""


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """[out, in]; the embedding's is [vocab, hidden]."""

    weight: Array
    """The values, or 32-bit words of packed ones."""
    scales: Array = None
    """[out, in / group_size] where it is packed, else None."""
    biases: Array = None
    """The biases, shaped as `scales`; None in the modes that have none."""
    group_size: int = 0
    bits: int = 0
    mode: str = "affine"

    @property
    def arrays(self) -> tuple[Array, ...]:
        return tuple(part for part in (self.weight, self.scales, self.biases) if part is not None)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.arrays)

    @property
    def rows(self) -> int:
        return int(self.weight.shape[0])

    def product(self, x: Array) -> Array:
        """x [n, in] to [n, out]."""
        if self.scales is None:
            return x @ self.weight.T
        return mx.quantized_matmul(
            x,
            self.weight,
            scales=self.scales,
            biases=self.biases,
            transpose=True,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
        )

    def lookup(self, tokens: Array) -> Array:
        """Return the rows of these tokens, [n, in]."""
        return self._dequantized([part[tokens] for part in self.arrays])

    def widened(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop` (exclusive) in float32."""
        parts = [part[start:stop] for part in self.arrays]
        # Scales in 16 bits would round the product once more.
        exact = [part if mx.issubdtype(part.dtype, mx.integer) else part.astype(mx.float32) for part in parts]
        return self._dequantized(exact).astype(mx.float32)

    def _dequantized(self, parts: list[Array]) -> Array:
        if self.scales is None:
            return parts[0]
        biases = parts[2] if len(parts) == 3 else None
        return mx.dequantize(
            parts[0],
            scales=parts[1],
            biases=biases,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
        )
