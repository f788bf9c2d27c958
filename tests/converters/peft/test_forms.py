"""forms: a stored factor and the plain one act alike, in whatever form it was stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora_converters.peft.forms import PLAIN, Form, block_diagonal, scaled_rows

SETTINGS = settings(deadline=None, max_examples=30)


@SETTINGS
@given(blocks=st.integers(1, 5), height=st.integers(1, 4), width=st.integers(1, 6), seed=st.integers(0, 99))
def test_blocks_act_on_their_own_inputs(blocks: int, height: int, width: int, seed: int) -> None:
    """Block n of the outputs is block n of the weights times block n of the inputs."""
    rng = np.random.default_rng(seed)
    stored = rng.standard_normal((blocks * height, width)).astype(np.float32)
    x = rng.standard_normal(blocks * width)
    wanted = np.concatenate(
        [stored[n * height : (n + 1) * height] @ x[n * width : (n + 1) * width] for n in range(blocks)]
    )
    plain = block_diagonal(stored, blocks)
    assert plain.dtype == np.float32 and plain.shape == (blocks * height, blocks * width)
    np.testing.assert_allclose(plain @ x, wanted, rtol=1e-12, atol=1e-12)


@SETTINGS
@given(rank=st.integers(1, 5), pool=st.integers(2, 8), groups=st.integers(1, 6), seed=st.integers(0, 99))
def test_pooled_inputs_are_spread_out(rank: int, pool: int, groups: int, seed: int) -> None:
    """The mean of each group times the number of groups, as QALoRA computes it."""
    rng = np.random.default_rng(seed)
    stored = rng.standard_normal((rank, groups)).astype(np.float32)
    x = rng.standard_normal(pool * groups)
    form = Form(pool=pool)
    assert form.stored_a(rank, pool * groups) == stored.shape
    wanted = stored @ (x.reshape(groups, pool).mean(axis=1) * groups)
    found = form.gain(pool * groups) * (form.plain_a(stored).astype(np.float64) @ x)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_plain_factors_stay_as_they_are() -> None:
    """Nothing is copied and nothing scaled."""
    a = np.ones((3, 8), np.float32)
    assert PLAIN.plain_a(a) is a and PLAIN.plain_b(a) is a
    assert (PLAIN.gain(8), PLAIN.stored_a(3, 8), PLAIN.stored_b(3, 8)) == (1.0, (3, 8), (8, 3))


@pytest.mark.parametrize(
    ("form", "a", "b"),
    [
        (Form(a_blocks=2), (4, 8), (12, 4)),
        (Form(b_blocks=4), (4, 16), (12, 1)),
        (Form(a_blocks=3), None, (12, 4)),
        (Form(b_blocks=8), (4, 16), None),
        (Form(pool=16), (4, 1), (12, 4)),
        (Form(pool=5), None, (12, 4)),
    ],
)
def test_stored_shapes(form: Form, a: tuple[int, int] | None, b: tuple[int, int] | None) -> None:
    """What a rank of 4 from 16 to 12 is stored as; None where blocks or groups do not divide it."""
    assert (form.stored_a(4, 16), form.stored_b(4, 12)) == (a, b)


def test_rows_are_scaled_in_float64() -> None:
    """One rounding: the product of two float32 numbers, rounded once."""
    rng = np.random.default_rng(1)
    a, factors = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 50), (3, 1)))
    wanted = (a.astype(np.float64) * factors.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(scaled_rows(a, factors), wanted)
    np.testing.assert_array_equal(scaled_rows(a, factors.reshape(-1)), wanted)
