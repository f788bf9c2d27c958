"""Which of two settings is faster, and when that cannot be told."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.runtime.tuning.compare import CHANCE, chance, judge

times = st.floats(min_value=1e-4, max_value=100.0, allow_nan=False)


def test_the_sign_test() -> None:
    """All of five rounds leave 3% to chance, four of them 19%; no wins are no evidence."""
    assert chance(5, 5) == 1 / 32
    assert chance(4, 5) == 6 / 32
    assert chance(0, 5) == 1.0


def test_a_clear_difference() -> None:
    """Twice as fast in every round is told as that, in either direction."""
    verdict = judge([1.0] * 8, [2.0] * 8)
    assert (verdict.ratio, verdict.faster, verdict.slower) == (0.5, 8, 0)
    assert verdict.surely_faster() and not verdict.surely_slower()
    assert judge([2.0] * 8, [1.0] * 8).surely_slower()


def test_a_busy_minute_changes_nothing() -> None:
    """Rounds that are ten times slower for both leave the ratio, and one spoilt step spoils one round."""
    candidate, default = [0.8] * 12, [1.0] * 12
    candidate[3:6], default[3:6] = [8.0] * 3, [10.0] * 3
    candidate[9] = 50.0
    verdict = judge(candidate, default)
    assert verdict.ratio == pytest.approx(0.8) and verdict.surely_faster()


def test_too_little_to_matter() -> None:
    """One percent in every round is no chance, and no reason either."""
    verdict = judge([0.99] * 12, [1.0] * 12)
    assert chance(verdict.faster, 12) <= CHANCE and not verdict.surely_faster()


def test_noise_alone_is_seldom_a_difference() -> None:
    """Two settings that are equal are told apart in a few percent of cases at most."""
    rng = random.Random(0)

    def sample() -> list[float]:
        return [rng.lognormvariate(0.0, 0.5) for _ in range(12)]

    assert sum(judge(sample(), sample()).surely_faster() for _ in range(1000)) <= 50


def test_rounds_are_pairs() -> None:
    """Nothing measured, or not the same rounds, is a mistake of the caller."""
    with pytest.raises(ValueError, match="nothing"):
        judge([], [])
    with pytest.raises(ValueError):
        judge([1.0], [1.0, 2.0])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(times, times), min_size=1, max_size=15))
def test_the_other_way_round(pairs: list[tuple[float, float]]) -> None:
    """What is surely faster is not surely slower, and its opposite is not surely faster."""
    candidate, default = [list(column) for column in zip(*pairs, strict=True)]
    verdict, opposite = judge(candidate, default), judge(default, candidate)
    assert not (verdict.surely_faster() and (verdict.surely_slower() or opposite.surely_faster()))
    assert (verdict.faster, verdict.slower) == (opposite.slower, opposite.faster)
