"""Truncation of the candidate tokens by top_k, top_p and min_p. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgelora.core.sampling_params import SamplingParams

Logits = NDArray[np.float32]
Ids = NDArray[np.intp]

# Number of likeliest tokens that top_p sorts first; it sorts eight times as many each time that is not enough.
_FIRST_LOOK = 64


def candidates(logits: Logits, params: SamplingParams) -> Ids | None:
    """Return the ids kept by top_k, top_p and min_p, likeliest first, ties by id.

    None means all ids, in order of id.
    """
    size, all_tokens = len(logits), not 0 < params.top_k < len(logits)
    if all_tokens and params.top_p >= 1 and params.min_p <= 0:
        return None
    if all_tokens and params.top_p >= 1:
        kept = np.arange(size)
    elif params.top_p >= 1:
        kept = top(logits, params.top_k)
    else:
        kept = _nucleus(logits, params.top_p, size if all_tokens else params.top_k)
    return _at_least(logits, kept, params.min_p) if params.min_p > 0 else kept


def top(logits: Logits, count: int) -> Ids:
    """Return the `count` ids of the largest logits, largest first, ties by id, without sorting the rest."""
    if count < len(logits):
        edge = np.partition(logits, len(logits) - count)[len(logits) - count]
        above = np.flatnonzero(logits > edge)
        level = np.flatnonzero(logits == edge)[: count - len(above)]
        ids = np.concatenate((above, level))
    else:
        ids = np.arange(len(logits))
    return ids[np.lexsort((ids, -logits[ids]))]


def _nucleus(logits: Logits, share: float, count: int) -> Ids:
    """Return the fewest of the `count` likeliest ids that together have at least `share` of those ids' probability."""
    look = min(count, _FIRST_LOOK)
    pool = logits if count == len(logits) else logits[top(logits, count)]
    total = np.exp(pool.astype(np.float64) - logits.max()).sum()
    while True:
        ids = top(logits, look)
        mass = np.exp(logits[ids].astype(np.float64) - logits.max()).cumsum()
        enough = int(np.searchsorted(mass, share * total)) + 1
        if enough <= look or look == count:
            return ids[:enough]
        look = min(count, 8 * look)


def _at_least(logits: Logits, ids: Ids, min_p: float) -> Ids:
    """Return those of `ids` with at least `min_p` times the likeliest one's probability."""
    likely: NDArray[np.bool_] = logits[ids] >= logits.max() + math.log(min_p)
    return ids[likely]
