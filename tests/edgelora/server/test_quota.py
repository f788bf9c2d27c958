"""A key pays for itself, and all pay together for the base."""

from __future__ import annotations

import pytest

from edgelora.errors import Busy
from edgelora.server.caller import ANYONE, Caller, Limits
from edgelora.server.quota import Quota, duration


def refusal(quota: Quota, who: Caller, now: float) -> Busy:
    with pytest.raises(Busy) as caught:
        quota.enter(who, now)
    assert (caught.value.code, caught.value.status) == ("rate_limit_exceeded", 429)
    return caught.value


def test_without_limits() -> None:
    """Nothing is refused, and nothing is told of limits that there are not."""
    quota = Quota(Limits(), now=0.0)
    for _ in range(1000):
        quota.enter(ANYONE, 0.0)
    quota.charge(ANYONE, 10**9, 0.0)
    assert quota.headers(ANYONE, 0.0) == {}


def test_requests_of_a_key() -> None:
    """The next after the last is told when to come back; another key is not touched."""
    quota = Quota(Limits(), now=0.0)
    clinic, other = Caller("clinic", limits=Limits(requests=2)), Caller("other", limits=Limits(requests=2))
    quota.enter(clinic, 0.0)
    quota.enter(clinic, 0.0)
    error = refusal(quota, clinic, 0.0)
    assert error.retry_after == 30.0 and "2 requests per minute" in str(error) and "'clinic'" in str(error)
    quota.enter(other, 0.0)
    quota.enter(clinic, 30.0)


def test_tokens_are_paid_when_they_are_known() -> None:
    """An answer may go beyond the limit; whoever comes next waits until that is paid off."""
    quota = Quota(Limits(), now=0.0)
    who = Caller("a", limits=Limits(tokens=60))
    quota.enter(who, 0.0)
    quota.charge(who, 90, 0.0)
    assert refusal(quota, who, 0.0).retry_after == 31.0
    quota.enter(who, 31.0)


def test_the_base_is_shared() -> None:
    """One limit over all callers and adapters, keys and no keys alike; a refused request costs its key nothing."""
    quota = Quota(Limits(requests=2), now=0.0)
    own = Caller("a", limits=Limits(requests=10))
    quota.enter(ANYONE, 0.0)
    quota.enter(own, 0.0)
    for _ in range(5):
        assert "the base" in str(refusal(quota, own, 0.0))
    assert quota.headers(own, 60.0)["x-ratelimit-remaining-requests"] == "2"
    quota.enter(own, 60.0)
    assert quota.headers(own, 60.0)["x-ratelimit-remaining-requests"] == "1"


def test_a_key_whose_limits_change() -> None:
    """New limits begin at once, and full."""
    quota = Quota(Limits(), now=0.0)
    quota.enter(Caller("a", limits=Limits(requests=1)), 0.0)
    quota.enter(Caller("a", limits=Limits(requests=2)), 0.0)
    assert quota.headers(Caller("a", limits=Limits(requests=2)), 0.0)["x-ratelimit-limit-requests"] == "2"


def test_headers_as_openai_writes_them() -> None:
    """Limit, what is left and when all of it is back, for requests and for tokens; the tighter account is told."""
    quota = Quota(Limits(requests=600), now=0.0)
    who = Caller("a", limits=Limits(requests=60, tokens=6000))
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
