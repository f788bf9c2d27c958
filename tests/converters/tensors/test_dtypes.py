"""The narrowest exact type: what is stored comes back bit for bit, and nothing wider than needed is stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora_converters.tensors.dtypes import Kind, kind_of, rounded, same_bits, stored, widened, widened_from

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


CODES = np.arange(256, dtype=np.uint8)


def fp8(code: int, *, exponents: int, bias: int) -> float:
    """One code by the definition: sign, exponent, mantissa."""
    mantissas = 7 - exponents
    exponent, mantissa = (code & 127) >> mantissas, code & (1 << mantissas) - 1
    fraction = mantissa / (1 << mantissas)
    value = (1 + fraction) * 2.0 ** (exponent - bias) if exponent else fraction * 2.0 ** (1 - bias)
    return -value if code >> 7 else value


def test_every_fp8_code_is_the_number_it_stands_for() -> None:
    """e4m3fn has one NaN of each sign and no infinity; e5m2 keeps its highest exponent for both."""
    e4m3, e5m2 = widened_from(CODES, "F8_E4M3"), widened_from(CODES, "F8_E5M2")
    for code in range(256):
        if code & 127 == 127:
            assert np.isnan(e4m3[code])
        else:
            assert e4m3[code] == fp8(code, exponents=4, bias=7)
        if code & 127 >= 0x7C:
            assert not np.isfinite(e5m2[code])
        else:
            assert e5m2[code] == fp8(code, exponents=5, bias=15)
    assert np.signbit(e4m3[128])
    assert np.nanmax(e4m3) == 448


@settings(max_examples=60, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float64_is_rounded_to_the_nearest_float32(value: float) -> None:
    """No float32 is nearer; what is above the range becomes infinity."""
    near = rounded(np.array([value]))
    if not np.isfinite(near[0]):
        assert abs(value) > float(np.finfo(np.float32).max)
        return
    with np.errstate(over="ignore"):  # the neighbour of the largest is infinity
        sides = [float(np.nextafter(near[0], np.float32(side))) for side in (-np.inf, np.inf)]
    assert all(abs(float(near[0]) - value) <= abs(side - value) for side in sides)


@pytest.mark.torch
@pytest.mark.parametrize(("dtype", "name"), [("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2")])
def test_fp8_is_what_torch_makes_of_it(dtype: str, name: str) -> None:
    """Bit for bit, NaN apart."""
    torch = pytest.importorskip("torch")
    theirs = torch.from_numpy(CODES.copy()).view(getattr(torch, name)).float().numpy()
    np.testing.assert_array_equal(widened_from(CODES, dtype), theirs)
