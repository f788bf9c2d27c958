"""Limits of requests and tokens per minute, of each key and of all callers together. Pure: the caller has the clock.

A request is counted when it arrives, its prompt when it is accepted, and the answer's tokens as they come. A request is
accepted unless the account is overdrawn, and if it uses more than was left, later requests wait until that is refilled.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.core.errors import Busy
from edgelora.server.auth.caller import Caller, RateLimits


class Bucket:
    """A token bucket: it refills evenly, holds a minute's worth, and may be overdrawn."""

    def __init__(self, per_minute: int, *, now: float) -> None:
        """`now`: when the bucket is full. Times are seconds of a monotonic clock."""
        self.per_minute = per_minute
        self._rate = per_minute / 60
        self._level = float(per_minute)
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until `amount`, or a full bucket if that is less, is available; 0.0 if it is now."""
        return max(0.0, (min(amount, self.per_minute) - self.level(now)) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Remove `amount`. The level goes below zero if more was used than there was."""
        self._level = self.level(now) - amount
        self._at = max(self._at, now)

    def level(self, now: float) -> float:
        """Return the amount that is available now; negative while the bucket is overdrawn."""
        return min(float(self.per_minute), self._level + max(0.0, now - self._at) * self._rate)

    def full_in(self, now: float) -> float:
        """Return the seconds until the bucket is full, if nothing more is taken."""
        return (self.per_minute - self.level(now)) / self._rate


BASE = "the base"
"""The owner, in error messages, of the limits that all callers share."""


@dataclass(frozen=True, slots=True)
class Account:
    """The buckets of one key, or of all callers together; None: no limit."""

    owner: str
    limits: RateLimits
    requests: Bucket | None
    tokens: Bucket | None

    def check(self, now: float) -> None:
        """Raises Busy (code rate_limit_exceeded) with the seconds to wait, if a bucket is empty."""
        for kind, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None and (wait := bucket.wait(1, now)) > 0:
                raise Busy(
                    "rate_limit_exceeded",
                    f"The limit of {bucket.per_minute} {kind} per minute for {self.owner} is used up.",
                    f"Try again in {wait:.1f} s.",
                    retry_after=wait,
                )


class RateLimiter:
    """The accounts of all callers. Not thread-safe: for the event loop only."""

    def __init__(self, shared: RateLimits, *, now: float) -> None:
        """`shared`: the limits of all callers together, as hosted services limit a base with its adapters."""
        self._shared = _account(BASE, shared, now)
        self._own: dict[str, Account] = {}

    def enter(self, caller: Caller, now: float) -> None:
        """Count one request. Raises Busy if a limit is reached, without counting it."""
        accounts = self._accounts(caller, now)
        for account in accounts:
            account.check(now)
        for account in accounts:
            if account.requests is not None:
                account.requests.take(1, now)

    def charge(self, caller: Caller, tokens: int, now: float) -> None:
        """Count tokens of a prompt or an answer; a negative number gives some back."""
        for account in self._accounts(caller, now):
            if account.tokens is not None:
                account.tokens.take(tokens, now)

    def headers(self, caller: Caller, now: float) -> dict[str, str]:
        """Return OpenAI's x-ratelimit-* headers, of the account that has the least left; empty without limits."""
        accounts = self._accounts(caller, now)
        fields: dict[str, str] = {}
        for kind, buckets in (("requests", [a.requests for a in accounts]), ("tokens", [a.tokens for a in accounts])):
            limited = [bucket for bucket in buckets if bucket is not None]
            if limited:
                tightest = min(limited, key=lambda bucket: bucket.level(now))
                fields[f"x-ratelimit-limit-{kind}"] = str(tightest.per_minute)
                fields[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(tightest.level(now))))
                fields[f"x-ratelimit-reset-{kind}"] = duration(tightest.full_in(now))
        return fields

    def _accounts(self, caller: Caller, now: float) -> tuple[Account, ...]:
        """Return the accounts that a caller's requests count against."""
        if not caller.name:
            return (self._shared,)
        own = self._own.get(caller.name)
        if own is None or own.limits != caller.limits:  # a new key, or one that was replaced with other limits
            own = self._own[caller.name] = _account(f"the key {caller.name!r}", caller.limits, now)
        return (self._shared, own)


def duration(seconds: float) -> str:
    """Format seconds as OpenAI's headers do: 250ms, 1.5s, 6m0s."""
    milliseconds = max(0, round(seconds * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:g}s"
    return f"{minutes}m{text}" if minutes else text


def _account(owner: str, limits: RateLimits, now: float) -> Account:
    requests, tokens = (
        None if per_minute is None else Bucket(per_minute, now=now) for per_minute in (limits.requests, limits.tokens)
    )
    return Account(owner, limits, requests, tokens)
