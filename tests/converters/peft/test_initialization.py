"""initial: what an initialisation took out of a weight is found again, and joined so that the delta fits the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraPair
from edgelora_converters.peft.initialization import leading_columns, less_initial, less_taken, principal, tail
from tests.support.lora import GQA, delta
from tests.support.weights import ArrayWeights

SETTINGS = settings(deadline=None, max_examples=30)
NAME = "w"


def base(matrix: NDArray[np.float64]) -> ArrayWeights:
    return ArrayWeights(GQA, {NAME: matrix.astype(np.float32)})


def matrix(out: int, width: int, values: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """A matrix with these singular values."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((n, len(values))))[0] for n in (out, width))
    found: NDArray[np.float64] = (u * values) @ v.T
    return found


@SETTINGS
@given(out=st.integers(4, 24), width=st.integers(4, 24), rank=st.integers(1, 4), seed=st.integers(0, 99))
def test_components_are_those_of_the_svd(out: int, width: int, rank: int, seed: int) -> None:
    """Largest and smallest, for tall, wide and square matrices: numpy's own SVD says the same."""
    values = np.linspace(2.0, 0.5, min(out, width))
    weight = matrix(out, width, values, seed=seed).astype(np.float32).astype(np.float64)
    u, s, vh = np.linalg.svd(weight, full_matrices=False)
    for taken, part in ((principal, slice(None, rank)), (tail, slice(len(s) - rank, None))):
        found = taken(base(weight), NAME, rank)
        assert (found.a.shape, found.b.shape) == ((rank, width), (out, rank))
        np.testing.assert_allclose(found.b @ found.a, (u[:, part] * s[part]) @ vh[part], rtol=0, atol=1e-6)
        assert 0 <= found.doubt < 1e-4


def test_vanishing_components_take_nothing_out() -> None:
    """Where the smallest singular values are zero there is nothing to divide by and nothing in doubt to matter."""
    values = np.array([2.0, 1.0, 0.5, 0.0, 0.0, 0.0])
    found = tail(base(matrix(8, 6, values, seed=1)), NAME, 2)
    assert np.abs(found.b @ found.a).max() < 1e-6
    assert found.doubt < 1e-6


@pytest.mark.parametrize("taken", [principal, tail])
def test_values_that_nearly_coincide_are_in_doubt(taken: object) -> None:
    """A float32 decomposition could have turned the last component anywhere: the estimate covers what numpy's own
    float32 decomposition does."""
    values = np.array([2.0, 1.0 + 1e-6, 1.0, 1.0 - 1e-6, 0.5])
    weight = matrix(12, 5, values, seed=3)
    rank, part = (2, slice(None, 2)) if taken is principal else (2, slice(3, 5))
    found = taken(base(weight), NAME, rank)  # type: ignore[operator]
    assert found.doubt > 0.01
    u, s, vh = np.linalg.svd(weight.astype(np.float32), full_matrices=False)
    far = np.linalg.norm((u[:, part] * s[part]) @ vh[part] - found.b @ found.a) / np.linalg.norm(weight)
    assert far < found.doubt


def test_all_components_leave_no_doubt() -> None:
    """With nothing left there is nothing to confuse them with."""
    weight = matrix(6, 4, np.array([1.0, 1.0, 1.0, 1.0]), seed=2)
    found = principal(base(weight), NAME, 4)
    assert found.doubt == 0
    np.testing.assert_allclose(found.b @ found.a, weight, atol=1e-6)


@SETTINGS
@given(out=st.integers(4, 24), width=st.integers(4, 24), rank=st.integers(1, 4), scale=st.floats(0.25, 4))
def test_leading_columns_are_those_of_qr(out: int, width: int, rank: int, scale: float) -> None:
    """scale * Q_r R_r, whatever the signs."""
    weight = np.random.default_rng(out * width).standard_normal((out, width)).astype(np.float32).astype(np.float64)
    q, r = np.linalg.qr(weight)
    found = leading_columns(base(weight), NAME, rank, scale=scale)
    np.testing.assert_allclose(found.b @ found.a, scale * q[:, :rank] @ r[:rank], rtol=0, atol=1e-9)
    assert 0 <= found.doubt < 1e-2


def test_dependent_columns_are_in_doubt() -> None:
    """Of two columns that are nearly one, float32 does not know the difference's direction."""
    weight = np.random.default_rng(1).standard_normal((16, 8))
    weight[:, 1] = weight[:, 0] * (1 + 1e-7)
    assert leading_columns(base(weight), NAME, 2, scale=1.0).doubt > 0.01


def pair(rank: int, *, scale: float, seed: int) -> LoraPair:
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((rank, 8), (12, rank)))
    return LoraPair(a, b, scale, magnitude=np.ones(12, np.float32), bias=np.zeros(12, np.float32))


@SETTINGS
@given(rank=st.integers(1, 4), scale=st.floats(0.1, 8).map(lambda s: -s) | st.floats(0.1, 8), seed=st.integers(0, 99))
def test_joined_pairs_are_the_difference(rank: int, scale: float, seed: int) -> None:
    """Trained less taken, whatever the scale; DoRA's magnitude and the bias stay."""
    own, first = pair(rank, scale=scale, seed=seed), pair(rank, scale=scale, seed=seed + 1)
    joined = less_initial(own, first)
    np.testing.assert_allclose(delta(joined), delta(own) - delta(first), rtol=0, atol=1e-9)
    assert joined.rank == 2 * rank and joined.magnitude is own.magnitude and joined.bias is own.bias
    weight = matrix(12, 8, np.linspace(2, 1, 8), seed=seed)
    taken = principal(base(weight), NAME, rank)
    found = less_taken(own, taken)
    np.testing.assert_allclose(delta(found), delta(own) - taken.b @ taken.a, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.b[:, :rank], own.b)


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix read row by row gives what one read at once gives."""
    weight = matrix(20, 10, np.linspace(3, 1, 10), seed=4)
    whole = [taken(base(w), NAME, 3) for w in (weight, weight.T) for taken in (principal, tail)]
    whole += [leading_columns(base(w), NAME, 3, scale=2.0) for w in (weight, weight.T)]
    monkeypatch.setattr("edgelora_converters.weights.base.BLOCK_BYTES", 1)
    parts = [taken(base(w), NAME, 3) for w in (weight, weight.T) for taken in (principal, tail)]
    parts += [leading_columns(base(w), NAME, 3, scale=2.0) for w in (weight, weight.T)]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.b @ one.a, other.b @ other.a, rtol=0, atol=1e-12)
