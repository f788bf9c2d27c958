"""Logits processors."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from edgelora.engine.sampling.truncation import Logits


def penalize(logits: Logits, recent: Sequence[int] | deque[int], penalty: float) -> Logits:
    """CTRL's repeat penalty as llama.cpp does it: once for each token seen, positive logits divided, others multiplied.

    Returns `logits` itself where there is nothing to do, a copy otherwise.
    """
    if penalty == 1.0 or not recent:
        return logits
    seen = np.unique(np.fromiter(recent, np.intp, len(recent)))
    logits = logits.copy()
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)
    return logits


def discourage(logits: Logits, counts: Mapping[int, int], *, presence: float, frequency: float) -> Logits:
    """OpenAI's two penalties: logit - presence - count * frequency, for each token of the answer so far.

    Returns `logits` itself where there is nothing to do, a copy otherwise.
    """
    if not counts or presence == frequency == 0:
        return logits
    seen = np.fromiter(counts, np.intp, len(counts))
    times = np.fromiter(counts.values(), np.float32, len(counts))
    logits = logits.copy()
    logits[seen] -= np.float32(presence) + times * np.float32(frequency)
    return logits
