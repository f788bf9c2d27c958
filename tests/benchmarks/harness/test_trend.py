"""The soak's verdict on series whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.trend import trend

TIMES = np.arange(0.0, 1200.0, 5.0)


def noise(scale: float, *, seed: int = 0) -> np.ndarray:
    """Samples that follow each other are alike."""
    steps = np.random.default_rng(seed).standard_normal(len(TIMES))
    return scale * np.convolve(steps, np.ones(6) / 6**0.5, "same")


def test_a_leak_is_found() -> None:
    """One that doubles the noise over the time is called one, its slope within the interval."""
    found = trend(TIMES, 100e6 + 5e3 * TIMES + noise(1e6))
    assert found.verdict == "grows" and found.low < 5e3 < found.high


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_is_flat(seed: int) -> None:
    """However the noise falls."""
    assert trend(TIMES, 100e6 + noise(0.3e6, seed=seed)).verdict == "flat"


def test_a_sure_but_tiny_growth_is_flat() -> None:
    """One percent in the whole time is none."""
    assert trend(TIMES, 100e6 + 800 * TIMES + noise(10.0)).verdict == "flat"


def test_shrinking_is_flat() -> None:
    """Memory given back is no leak."""
    assert trend(TIMES, 200e6 - 50e3 * TIMES + noise(1e5)).verdict == "flat"


def test_what_cannot_be_said_is_not_called_flat() -> None:
    """Noise as large as the value hides any leak."""
    assert trend(TIMES, 100e6 + noise(80e6)).verdict == "unclear"


def test_too_few_samples_are_refused() -> None:
    """A trend of a handful of samples is none."""
    with pytest.raises(ValueError, match="too few"):
        trend(TIMES[:20], TIMES[:20])
