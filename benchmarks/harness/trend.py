"""Whether a measured quantity stays flat: the slope over time with a confidence interval. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCKS = 12
"""Samples that follow each other are alike, so that a fit of all of them would seem surer than it is: the fit is of the
medians of so many stretches of time."""
STUDENT = 2.228
"""Of Student's distribution with BLOCKS - 2 degrees of freedom, 97.5%."""
NEGLIGIBLE, TOO_WIDE = 0.02, 0.10
"""Growth over the whole time, as a share of the mean."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Growth per second, with its 95% confidence interval."""

    slope: float
    low: float
    high: float
    seconds: float
    mean: float

    @property
    def verdict(self) -> str:
        """`grows`: surely, and more than NEGLIGIBLE over the time looked at. `unclear`: it may grow by more than
        TOO_WIDE of itself, for the samples are too few or scatter too much. Else `flat`."""
        worst = self.high * self.seconds / self.mean
        if self.low > 0 and worst > NEGLIGIBLE:
            return "grows"
        return "unclear" if worst > TOO_WIDE else "flat"


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Of samples in order of time, spread over it evenly. Raises ValueError for fewer than two a block."""
    if len(times) < 2 * BLOCKS:
        raise ValueError(f"{len(times)} samples are too few for a trend: {2 * BLOCKS} at least")
    x = np.array([np.median(block) for block in np.array_split(np.asarray(times, float), BLOCKS)])
    y = np.array([np.median(block) for block in np.array_split(np.asarray(values, float), BLOCKS)])
    spread = x - x.mean()
    slope = float(spread @ y / (spread @ spread))
    rest = y - y.mean() - slope * spread
    margin = STUDENT * float(np.sqrt(rest @ rest / (BLOCKS - 2) / (spread @ spread)))
    return Trend(slope, slope - margin, slope + margin, float(times[-1] - times[0]), float(np.mean(y)))
