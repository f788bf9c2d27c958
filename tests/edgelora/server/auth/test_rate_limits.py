"""A key pays for itself, and all pay together for the base."""

from __future__ import annotations

import pytest

from edgelora.core.errors import Busy
from edgelora.server.auth.caller import ANYONE, Caller, RateLimits
from edgelora.server.auth.rate_limits import RateLimiter, duration


def refusal(quota: RateLimiter, who: Caller, now: float) -> Busy:
    with pytest.raises(Busy) as caught:
        quota.enter(who, now)
    assert (caught.value.code, caught.value.status) == ("rate_limit_exceeded", 429)
    return caught.value


def test_without_limits() -> None:
    """Nothing is refused, and nothing is told of limits that there are not."""
    quota = RateLimiter(RateLimits(), now=0.0)
    for _ in range(1000):
        quota.enter(ANYONE, 0.0)
    quota.charge(ANYONE, 10**9, 0.0)
    assert quota.headers(ANYONE, 0.0) == {}


def test_requests_of_a_key() -> None:
    """The next after the last is told when to come back; another key is not touched."""
    quota = RateLimiter(RateLimits(), now=0.0)
    clinic, other = Caller("clinic", limits=RateLimits(requests=2)), Caller("other", limits=RateLimits(requests=2))
    quota.enter(clinic, 0.0)
    quota.enter(clinic, 0.0)
    error = refusal(quota, clinic, 0.0)
    assert error.retry_after == 30.0 and "2 requests per minute" in str(error) and "'clinic'" in str(error)
    quota.enter(other, 0.0)
    quota.enter(clinic, 30.0)


def test_tokens_are_paid_when_they_are_known() -> None:
    """An answer may go beyond the limit; whoever comes next waits until that is paid off."""
    quota = RateLimiter(RateLimits(), now=0.0)
    who = Caller("a", limits=RateLimits(tokens=60))
    quota.enter(who, 0.0)
    quota.charge(who, 90, 0.0)
    assert refusal(quota, who, 0.0).retry_after == 31.0
    quota.enter(who, 31.0)


def test_the_base_is_shared() -> None:
    """The shared limit holds over all callers and adapters; a refused request does not count against its key."""
    quota = RateLimiter(RateLimits(requests=2), now=0.0)
    own = Caller("a", limits=RateLimits(requests=10))
    quota.enter(ANYONE, 0.0)
    quota.enter(own, 0.0)
    for _ in range(5):
        assert "the base" in str(refusal(quota, own, 0.0))
    assert quota.headers(own, 60.0)["x-ratelimit-remaining-requests"] == "2"
    quota.enter(own, 60.0)
    assert quota.headers(own, 60.0)["x-ratelimit-remaining-requests"] == "1"


def test_a_key_whose_limits_change() -> None:
    """New limits begin at once, and full."""
    quota = RateLimiter(RateLimits(), now=0.0)
    quota.enter(Caller("a", limits=RateLimits(requests=1)), 0.0)
    quota.enter(Caller("a", limits=RateLimits(requests=2)), 0.0)
    assert quota.headers(Caller("a", limits=RateLimits(requests=2)), 0.0)["x-ratelimit-limit-requests"] == "2"


def test_headers_as_openai_writes_them() -> None:
    """Limit, what is left and when all of it is back, for requests and for tokens; the tighter account is told."""
    quota = RateLimiter(RateLimits(requests=600), now=0.0)
    who = Caller("a", limits=RateLimits(requests=60, tokens=6000))
    quota.enter(who, 0.0)
    quota.charge(who, 9000, 0.0)
    assert quota.headers(who, 0.0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m30s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0ms"), (0.0, "0ms"), (0.25, "250ms"), (1.5, "1.5s"), (59.999, "59.999s"), (360, "6m0s")]
)
def test_durations(seconds: float, text: str) -> None:
    """Go's way of writing durations, which is what these headers carry."""
    assert duration(seconds) == text
