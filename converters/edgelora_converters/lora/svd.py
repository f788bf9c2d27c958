"""The best approximation of a low-rank delta by one of lower rank. Pure; owns no file.

A delta B A of rank r has its singular values in a matrix of r x r: with B = Qb Rb and A' = Qa Ra, Rb Ra' has the same
ones, and Qb, Qa turn its singular vectors into the delta's. So the decomposition is exact, deterministic and small, and
no matrix of out x in is ever made. That cutting it after the largest values is the best there is: Eckart and Young.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraPair


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """A pair of lower rank, and what it lost: Frobenius norms of the whole delta and of the part left out."""

    pair: LoraPair
    norm: float
    lost: float

    @property
    def error(self) -> float:
        """Relative Frobenius distance from the whole delta; 0.0 where there is none."""
        return self.lost / self.norm if self.norm else 0.0


def reduce_rank(pair: LoraPair, rank: int) -> Reduced:
    """Cut `pair`, which has no magnitude, to `rank`: scale 1.0, the roots of the singular values in both factors. A
    pair of no higher rank stays as it is.

    Computed in float64 and rounded once to float32, which is not counted in `lost` (about 1e-7 of `norm`).
    """
    left, upper = np.linalg.qr(pair.b.astype(np.float64) * pair.scale)
    right, lower = np.linalg.qr(pair.a.astype(np.float64).T)
    u, values, v = np.linalg.svd(upper @ lower.T)
    norm, lost = _norm(values), _norm(values[rank:])
    if pair.rank <= rank:
        return Reduced(pair, norm, 0.0)
    kept = min(rank, len(values))
    roots = np.sqrt(values[:kept])
    b, a = (left @ u[:, :kept]) * roots, roots[:, None] * (v[:kept] @ right.T)
    bias = None if pair.bias is None else _single(pair.bias.astype(np.float64) * pair.scale)
    return Reduced(LoraPair(_single(a), _single(b), 1.0, bias=bias), norm, lost)


def _single(factor: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(factor, dtype=np.float32)


def _norm(values: NDArray[np.float64]) -> float:
    return math.sqrt(float(np.sum(values * values)))
