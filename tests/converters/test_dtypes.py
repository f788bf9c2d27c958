"""The narrowest exact type: what is stored comes back bit for bit, and nothing wider than needed is stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora_converters.dtypes import Kind, kind_of, same_bits, stored, widened

HALVES = np.arange(1 << 16, dtype=np.uint16)


def every(kind: Kind) -> NDArray[np.float32]:
    """Every finite value of a 16-bit type, in float32."""
    values = widened(HALVES.view(np.float16) if kind == "F16" else HALVES)
    return values[np.isfinite(values)]


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_a_16_bit_source_stays_in_16_bits(kind: Kind) -> None:
    """All values of float16 (subnormals and -0.0 too) and of bfloat16 are found to be of their type, and come back."""
    values = every(kind)
    assert kind_of(values) == kind
    assert same_bits(widened(stored(values, kind)), values)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_whatever_it_is_stored_as_is_exact(values: list[float]) -> None:
    """Any float32 values come back bit for bit from the type that was chosen for them."""
    array = np.array(values, np.float32)
    assert same_bits(widened(stored(array, kind_of(array))), array)


@pytest.mark.parametrize(
    ("odd", "kind"),
    [(np.pi, "F32"), (2.0**-30, "BF16"), (65536.0, "BF16"), (1.0009765625, "F16"), (-0.0, "F16"), (3.4e38, "F32")],
)
def test_one_odd_value_decides(odd: float, kind: Kind) -> None:
    """A value far from the beginning that a type cannot hold rules that type out for all."""
    values = np.zeros(5000, np.float32)
    values[4321] = odd
    assert kind_of(values) == kind


def test_zeros_are_not_all_the_same() -> None:
    """-0.0 equals 0.0 and is another value."""
    zeros = np.zeros(3, np.float32)
    assert same_bits(zeros, zeros.copy()) and not same_bits(zeros, -zeros)
