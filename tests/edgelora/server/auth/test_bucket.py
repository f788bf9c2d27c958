"""A bucket gives out what was said a minute, and no more over any time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.server.auth.rate_limits import Bucket


def test_full_empty_and_refilled() -> None:
    """A minute's worth at once; then one every sixtieth of it; never more than a minute's worth saved up."""
    bucket = Bucket(60, now=100.0)
    for _ in range(60):
        assert bucket.wait(1, 100.0) == 0.0
        bucket.take(1, 100.0)
    assert bucket.wait(1, 100.0) == 1.0 and bucket.full_in(100.0) == 60.0
    assert bucket.wait(1, 100.5) == 0.5 and bucket.wait(1, 101.0) == 0.0
    assert bucket.level(10_000.0) == 60.0


def test_debt_is_waited_for() -> None:
    """An overdrawn bucket refills to zero before anything is available."""
    bucket = Bucket(60, now=0.0)
    bucket.take(90, 0.0)
    assert bucket.level(0.0) == -30.0 and bucket.wait(1, 0.0) == 31.0 and bucket.wait(1, 31.0) == 0.0


def test_more_than_a_minutes_worth_can_be_waited_for() -> None:
    """An amount above the limit is available once the bucket is full."""
    assert Bucket(10, now=0.0).wait(11, 0.0) == 0.0


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    """Time only ever refills."""
    bucket = Bucket(60, now=100.0)
    bucket.take(60, 100.0)
    assert bucket.level(50.0) == 0.0
    bucket.take(0, 50.0)
    assert bucket.level(100.0) == 0.0


@given(st.integers(1, 1000), st.lists(st.tuples(st.floats(0, 30), st.floats(0, 50)), max_size=60))
@settings(deadline=None, max_examples=100)
def test_never_more_than_the_rate(per_minute: int, steps: list[tuple[float, float]]) -> None:
    """Over any time, what whoever asks first is given is at most the rate times that time, and one minute's worth."""
    bucket, now, taken = Bucket(per_minute, now=0.0), 0.0, 0.0
    for pause, amount in steps:
        now += pause
        if amount <= per_minute and bucket.wait(amount, now) == 0.0:
            bucket.take(amount, now)
            taken += amount
    assert taken <= per_minute + now * per_minute / 60 + 1e-6
