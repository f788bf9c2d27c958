"""Lower ranks: the best approximation, its error told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora_converters.lora.adapter import LoraPair
from edgelora_converters.lora.svd import reduce_rank
from tests.support.lora import delta


def pair(*, seed: int, rank: int, out: int = 12, width: int = 9, scale: float = 1.5) -> LoraPair:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((rank, width)), rng.standard_normal((out, rank))
    return LoraPair(a.astype(np.float32), b.astype(np.float32), scale)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 99),
    rank=st.integers(2, 14),
    goal=st.integers(1, 8),
    out=st.integers(3, 12),
    width=st.integers(3, 12),
    scale=st.sampled_from([1.0, 0.25, -2.0]),
)
def test_it_is_the_best_of_its_rank(seed: int, rank: int, goal: int, out: int, width: int, scale: float) -> None:
    """As good as the truncated SVD of the whole matrix, and the error told is the one made."""
    source = pair(seed=seed, rank=rank, out=out, width=width, scale=scale)
    reduced = reduce_rank(source, goal)
    whole = delta(source)
    values = np.linalg.svd(whole, compute_uv=False)
    best = float(np.linalg.norm(values[goal:]))
    made = float(np.linalg.norm(delta(reduced.pair) - whole))
    assert reduced.pair.rank == min(goal, rank, out, width) or rank <= goal
    assert reduced.norm == pytest.approx(float(np.linalg.norm(whole)), rel=1e-9)
    assert made == pytest.approx(best, abs=1e-5 * reduced.norm)
    assert reduced.lost == pytest.approx(best if rank > goal else 0.0, abs=1e-9 * reduced.norm)


def test_what_needs_no_cut_stays() -> None:
    """A rank that is low enough leaves factors and scale as they are."""
    source = pair(seed=1, rank=3)
    assert reduce_rank(source, 3).pair is source
    assert reduce_rank(source, 3).error == 0.0


def test_true_rank_costs_nothing() -> None:
    """A delta stored with more rank than it has is cut to it without loss."""
    source = pair(seed=2, rank=3)
    twice = LoraPair(np.vstack([source.a, source.a]), np.hstack([source.b, source.b]), source.scale)
    reduced = reduce_rank(twice, 3)
    assert reduced.error < 1e-7
    np.testing.assert_allclose(delta(reduced.pair), delta(twice), atol=1e-5)


def test_nothing_is_lost_of_nothing() -> None:
    """An untrained pair, whose delta is zero, has no relative error."""
    source = LoraPair(np.ones((4, 5), np.float32), np.zeros((6, 4), np.float32), 2.0)
    reduced = reduce_rank(source, 2)
    assert (reduced.error, reduced.pair.rank) == (0.0, 2)
    assert not delta(reduced.pair).any()


def test_the_bias_keeps_its_share() -> None:
    """lora_B's bias is scaled with the factors: the scale that goes into them goes into it."""
    source = pair(seed=3, rank=4, scale=0.5)
    biased = LoraPair(source.a, source.b, 0.5, bias=np.full(12, 3.0, np.float32))
    reduced = reduce_rank(biased, 2).pair
    assert reduced.bias is not None
    np.testing.assert_array_equal(reduced.bias * reduced.scale, np.full(12, 1.5, np.float32))
