"""The part that an initialisation took out of the base's weight: with it, an adapter trained beside the rest fits the
whole.

PiSSA, OLoRA, CorDA and LoRA-GA start from W = W0 + taken and train beside W0; KaSA trains beside W less its smallest
singular components. With W itself the delta is that of the trained factors less what was taken: rank r + r, exact.
`taken` is known from the adapter saved before training, or computed anew here from the base's weight. Pure arithmetic
over BaseWeights, in float64; which adapter needs it is `treatment`.

PEFT computes the decomposition in float32 where it trained. A subspace that float32 hardly determines (singular values
that nearly coincide) cannot be computed anew exactly: `doubt` estimates how far the two may be apart.

Sources: PiSSA, arXiv 2404.02948; OLoRA, arXiv 2406.01775; KaSA, arXiv 2412.06071; PEFT 0.21.2, tuners/lora/layer.py
(pissa_init, olora_init), variants.py (KasaLinearVariant) and model.py (subtract_mutated_init).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraPair
from edgelora_converters.weights.base import BaseWeights, row_blocks

Wide = NDArray[np.float64]

_FLOAT32_ERROR = 8 * float(np.finfo(np.float32).eps)
"""Backward error of a float32 decomposition, relative to the largest singular value: a few roundings."""


@dataclass(frozen=True, slots=True, eq=False)
class InitialState:
    """The part missing from the weight that the adapter was trained beside: b @ a, [out, in]."""

    a: Wide
    """[rank, in]"""
    b: Wide
    """[out, rank]"""
    doubt: float
    """Estimated distance between this and what training took out, relative to the weight (Frobenius)."""


def less_taken(pair: LoraPair, taken: InitialState) -> LoraPair:
    """Return the pair beside the whole weight: delta = scale * B A - taken. `pair.scale` is not 0."""
    b = np.hstack([pair.b, (-taken.b / pair.scale).astype(np.float32)])
    return _joined(pair, np.vstack([pair.a, taken.a.astype(np.float32)]), b)


def less_initial(pair: LoraPair, initial: LoraPair) -> LoraPair:
    """Return the pair beside the whole weight, by the factors it started from, which have its scale: bit for bit."""
    return _joined(pair, np.vstack([pair.a, initial.a]), np.hstack([pair.b, -initial.b]))


def _joined(pair: LoraPair, a: NDArray[np.float32], b: NDArray[np.float32]) -> LoraPair:
    return LoraPair(a=a, b=b, scale=pair.scale, magnitude=pair.magnitude, bias=pair.bias)


def principal(weights: BaseWeights, name: str, rank: int) -> InitialState:
    """PiSSA's: the `rank` largest singular components of the matrix `name`."""
    return _components(weights, name, rank, largest=True)


def tail(weights: BaseWeights, name: str, rank: int) -> InitialState:
    """KaSA's: the `rank` smallest singular components of the matrix `name`."""
    return _components(weights, name, rank, largest=False)


def leading_columns(weights: BaseWeights, name: str, rank: int, *, scale: float) -> InitialState:
    """OLoRA's: scale * Q_r R_r of the QR decomposition. Q_r spans the first `rank` columns, and R_r = Q_r^T W."""
    columns = np.vstack([block[:, :rank].astype(np.float64) for _, block in row_blocks(weights, name)])
    q, r = np.linalg.qr(columns)
    a = np.zeros((rank, weights.shape(name)[1]))
    square = 0.0
    for start, block in row_blocks(weights, name):
        wide = block.astype(np.float64)
        a += q[start : start + len(wide)].T @ wide
        square += float(np.sum(wide * wide))
    lost = np.linalg.cond(r) * _FLOAT32_ERROR
    return InitialState(a, scale * q, doubt=abs(scale) * float(np.linalg.norm(a)) * lost / math.sqrt(square))


def _components(weights: BaseWeights, name: str, rank: int, *, largest: bool) -> InitialState:
    """Singular components from the Gram matrix of the narrow side, V or U alone: W V V^T divides by nothing small.

    In float64 the squared singular values still tell apart what float32 does.
    """
    out, width = weights.shape(name)
    gram = _gram_of_columns(weights, name) if width <= out else _gram_of_rows(weights, name)
    squares, vectors = np.linalg.eigh(gram)
    chosen = vectors[:, -rank:] if largest else vectors[:, :rank]
    values = np.sqrt(np.maximum(squares, 0.0))[:: -1 if largest else 1]
    doubt = _doubt(values, rank, largest=float(max(values[0], values[-1])))
    if width <= out:
        b = np.vstack([block.astype(np.float64) @ chosen for _, block in row_blocks(weights, name)])
        return InitialState(chosen.T, b, doubt)
    a = np.zeros((rank, width))
    for start, block in row_blocks(weights, name):
        a += chosen[start : start + len(block)].T @ block.astype(np.float64)
    return InitialState(a, chosen, doubt)


def _gram_of_columns(weights: BaseWeights, name: str) -> Wide:
    width = weights.shape(name)[1]
    gram = np.zeros((width, width))
    for _, block in row_blocks(weights, name):
        wide = block.astype(np.float64)
        gram += wide.T @ wide
    return gram


def _gram_of_rows(weights: BaseWeights, name: str) -> Wide:
    out, width = weights.shape(name)
    matrix = weights.read(name)
    gram = np.zeros((out, out))
    step = max(1, (2 << 20) // out)
    for start in range(0, width, step):
        wide = matrix[:, start : start + step].astype(np.float64)
        gram += wide @ wide.T
    return gram


def _doubt(values: Wide, rank: int, *, largest: float) -> float:
    """`values`: all singular values, those taken first. A perturbation of e turns the last one taken towards the next
    by about e / (their distance), which moves what is taken by as much of that value."""
    if rank >= len(values) or values[rank - 1] == 0.0:
        return 0.0
    distance = abs(float(values[rank - 1] - values[rank]))
    turned = min(1.0, _FLOAT32_ERROR * largest / distance) if distance else 1.0
    return math.sqrt(2.0) * float(values[rank - 1]) * turned / float(np.linalg.norm(values))
