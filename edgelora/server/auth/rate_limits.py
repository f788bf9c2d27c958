"""How much may be asked in a minute: by each key, and by all together of the one base. Pure: the clock is given.

Requests are paid when they come. Tokens are paid when they are known, at the end of an answer: until then it is enough
that nothing is owed, and what was used beyond the limit is waited for by whoever comes next.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.core.errors import Busy
from edgelora.server.auth.caller import Caller, RateLimits


class Bucket:
    def __init__(self, per_minute: int, *, now: float) -> None:
        """Full at `now`. Times are seconds of a clock that never goes back."""
        self.per_minute = per_minute
        self._rate = per_minute / 60
        self._level = float(per_minute)
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` (of a minute's worth at most) can be taken; 0.0 where it can be now."""
        return max(0.0, (min(amount, self.per_minute) - self.level(now)) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Below zero where more was used than there was: what is only known afterwards is paid off by waiting."""
        self._level = self.level(now) - amount
        self._at = max(self._at, now)

    def level(self, now: float) -> float:
        """What could be taken now; negative while something is owed."""
        return min(float(self.per_minute), self._level + max(0.0, now - self._at) * self._rate)

    def full_in(self, now: float) -> float:
        """Seconds until it is full again, if nothing more is taken."""
        return (self.per_minute - self.level(now)) / self._rate


BASE = "the base"
"""Whose the limit is that all share, whatever their key and adapter."""


@dataclass(frozen=True, slots=True)
class Account:
    """One payer's buckets; None where there is no limit."""

    owner: str
    limits: RateLimits
    requests: Bucket | None
    tokens: Bucket | None

    def check(self, now: float) -> None:
        """Raises Busy(code rate_limit_exceeded) where a request has to wait, saying how long."""
        for kind, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None and (wait := bucket.wait(1, now)) > 0:
                raise Busy(
                    "rate_limit_exceeded",
                    f"The limit of {bucket.per_minute} {kind} per minute for {self.owner} is used up.",
                    f"Try again in {wait:.1f} s.",
                    retry_after=wait,
                )


class RateLimiter:
    """Every account there is. Not thread-safe: the server asks on its loop only."""

    def __init__(self, shared: RateLimits, *, now: float) -> None:
        """`shared`: what all may ask of the base together, as hosted services limit a base with its adapters."""
        self._shared = _account(BASE, shared, now)
        self._own: dict[str, Account] = {}

    def enter(self, who: Caller, now: float) -> None:
        """Pay for one request. Raises Busy, and then nothing was paid."""
        accounts = self._accounts(who, now)
        for account in accounts:
            account.check(now)
        for account in accounts:
            if account.requests is not None:
                account.requests.take(1, now)

    def charge(self, who: Caller, tokens: int, now: float) -> None:
        """Pay for the tokens of an answer."""
        for account in self._accounts(who, now):
            if account.tokens is not None:
                account.tokens.take(tokens, now)

    def headers(self, who: Caller, now: float) -> dict[str, str]:
        """x-ratelimit-* as OpenAI names and writes them, of the account that has least left; none without limits."""
        accounts = self._accounts(who, now)
        fields: dict[str, str] = {}
        for kind, buckets in (("requests", [a.requests for a in accounts]), ("tokens", [a.tokens for a in accounts])):
            known = [bucket for bucket in buckets if bucket is not None]
            if known:
                tightest = min(known, key=lambda bucket: bucket.level(now))
                fields[f"x-ratelimit-limit-{kind}"] = str(tightest.per_minute)
                fields[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(tightest.level(now))))
                fields[f"x-ratelimit-reset-{kind}"] = duration(tightest.full_in(now))
        return fields

    def _accounts(self, who: Caller, now: float) -> tuple[Account, ...]:
        """Who pays for a caller's request."""
        if not who.name:
            return (self._shared,)
        own = self._own.get(who.name)
        if own is None or own.limits != who.limits:  # the key is new here, or was replaced by one of other limits
            own = self._own[who.name] = _account(f"the key {who.name!r}", who.limits, now)
        return (self._shared, own)


def duration(seconds: float) -> str:
    """As OpenAI's headers write it: 250ms, 1.5s, 6m0s."""
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
