"""Random K-quant blocks that stand for sane weights: zero mean, deviation about 0.017, never NaN.

Only their size and type matter for speed. Layouts: ggml-common.h, block_q4_K and block_q6_K, 256 weights each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WEIGHTS_PER_BLOCK = 256
Q4_K_BYTES = 144
Q6_K_BYTES = 210
_SCALE = 1e-4


def q4_k(rng: np.random.Generator, rows: int, width: int) -> NDArray[np.uint8]:
    """[rows, width / 256 * 144] bytes: d, dmin (float16), 12 of packed 6-bit scales and minima, 128 of nibbles."""
    blocks = _random_bytes(rng, rows * width // WEIGHTS_PER_BLOCK, Q4_K_BYTES)
    blocks[:, 0:2] = _half(_SCALE)
    # With each minimum equal to its scale and dmin = 7.5 d, the nibbles 0..15 are centred on zero.
    blocks[:, 2:4] = _half(7.5 * _SCALE)
    blocks[:, 8:12] = blocks[:, 4:8]
    blocks[:, 12:16] = (blocks[:, 12:16] & 0x0F) * 0x11
    return blocks.reshape(rows, -1)


def q6_k(rng: np.random.Generator, rows: int, width: int) -> NDArray[np.uint8]:
    """[rows, width / 256 * 210] bytes: 192 of 6-bit weights, 16 int8 scales, d (float16)."""
    blocks = _random_bytes(rng, rows * width // WEIGHTS_PER_BLOCK, Q6_K_BYTES)
    blocks[:, 192:208] = 4 + blocks[:, 192:208] % 10
    blocks[:, 208:210] = _half(_SCALE)
    return blocks.reshape(rows, -1)


def _random_bytes(rng: np.random.Generator, rows: int, width: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (rows, width), dtype=np.uint8)


def _half(value: float) -> NDArray[np.uint8]:
    return np.array([value], "<f2").view(np.uint8)
