"""The scale multiplied into B: the short way of scales that float32 holds gives the bits of the long way."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgelora_converters.lora.adapter import LoraPair
from edgelora_converters.tensors.dtypes import same_bits

VALUES = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8)
SCALES = st.one_of(
    st.floats(-1e6, 1e6), st.floats(-1e6, 1e6, width=32), st.sampled_from([2.0, 0.5, 2 / 3, 32 / 16**0.5, 1e300, 0.0])
)


@given(values=VALUES, scale=SCALES)
@example(values=[1e-45, -1e-45, 3e38], scale=0.5)
@example(values=[0.1], scale=1 / 3)
@settings(deadline=None, max_examples=200)
def test_one_rounding(values: list[float], scale: float) -> None:
    """scale * b in float64, rounded once to float32: whatever the scale, subnormals, zeros and overflow included."""
    b = np.array(values, np.float32)[:, None]
    with np.errstate(over="ignore"):
        wanted = (b.astype(np.float64) * scale).astype(np.float32)
        folded = LoraPair(np.ones((1, 1), np.float32), b, scale).folded_b()
    assert folded.dtype == np.float32 and same_bits(folded, wanted)
