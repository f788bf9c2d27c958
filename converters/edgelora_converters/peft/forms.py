"""The forms in which variants of LoRA store a module's two factors, and the way back to plain ones: [rank, in] and
[out, rank]. Pure.

Block-diagonal LoRA stores only the blocks on the diagonal; QALoRA stores one column for each group of inputs, which it
averages; KaSA and AdaLoRA keep a factor for each rank apart. Exact: blocks are placed, columns repeated, and QALoRA's
constant goes into the scale; a factor for each rank is multiplied in float64 and rounded once.

Sources: PEFT 0.21.2, tuners/lora/variants.py (BdLoraLinearVariant, QALoraLinearVariant, KasaLinearVariant) and
tuners/adalora/layer.py (SVDLinear).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BlockDiagonal:
    """BD-LoRA's setting: in which modules which factor is block-diagonal."""

    a_in: tuple[str, ...]
    """Pieces of a module's path; a path that holds one has a block-diagonal lora_A."""
    b_in: tuple[str, ...]
    blocks: int
    strict: bool
    """True if every module must be in one of them."""


@dataclass(frozen=True, slots=True)
class Form:
    """The stored form of a module's factors: A as [rank, in / (a_blocks * pool)], B as [out, rank / b_blocks]."""

    a_blocks: int = 1
    b_blocks: int = 1
    pool: int = 1
    """Inputs that QALoRA averages."""

    def stored_a(self, rank: int, width: int) -> tuple[int, int] | None:
        """Return the shape A is stored in; None where blocks or groups do not divide it."""
        if rank % self.a_blocks or width % (self.a_blocks * self.pool):
            return None
        return rank, width // (self.a_blocks * self.pool)

    def stored_b(self, rank: int, out: int) -> tuple[int, int] | None:
        """Return the shape B is stored in; None where the blocks do not divide it."""
        if rank % self.b_blocks or out % self.b_blocks:
            return None
        return out, rank // self.b_blocks

    def plain_a(self, stored: Array) -> Array:
        """Return A as [rank, in]."""
        return block_diagonal(np.repeat(stored, self.pool, axis=1) if self.pool > 1 else stored, self.a_blocks)

    def plain_b(self, stored: Array) -> Array:
        """B as [out, rank]."""
        return block_diagonal(stored, self.b_blocks)

    def gain(self, width: int) -> float:
        """Return the factor on the scale: QALoRA takes the mean of `pool` inputs times the number of groups."""
        return width / self.pool / self.pool if self.pool > 1 else 1.0


PLAIN = Form()


def block_diagonal(stored: Array, blocks: int) -> Array:
    """Arrange `blocks` blocks below one another, [rows, width], as the blocks of a diagonal: [rows, width * blocks]."""
    if blocks == 1:
        return stored
    rows, width = stored.shape
    plain = np.zeros((rows, width * blocks), np.float32)
    height = rows // blocks
    for n in range(blocks):
        plain[n * height : (n + 1) * height, n * width : (n + 1) * width] = stored[n * height : (n + 1) * height]
    return plain


def scaled_rows(a: Array, factors: Array) -> Array:
    """Multiply each row of A, [rank, in], by its factor, of `rank` of them in any shape: in float64, rounded once."""
    product: NDArray[np.float64] = factors.astype(np.float64).reshape(-1, 1) * a
    return product.astype(np.float32)
