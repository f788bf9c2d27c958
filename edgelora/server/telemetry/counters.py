"""Counters since the start of the server: requests, tokens, latencies, speed. Not thread-safe: event loop only.

Their number is bounded: routes are those of the application, and adapters have at most LABELS labels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from edgelora.engine.adapters.counts import OTHERS

LABELS = 64
"""Maximum number of adapters with a label of their own; later ones share OTHERS, whose bracket no name begins with."""
NO_MODEL = "(none)"
"""The label of requests that generate nothing."""
BASE = "(base)"
SEVERAL = "(several)"

FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
GAP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WINDOW_SECONDS = 10.0
"""Seconds over which the current speed is averaged."""
_RECENT = 100
"""Number of requests whose median time to first token is reported."""


@dataclass(slots=True)
class Histogram:
    bounds: tuple[float, ...]
    """Upper bounds of all buckets except the last, which has none."""
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Yield each bucket's upper bound, infinity last, with the number of values that are not above it."""
        cumulated = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            cumulated += count
            yield bound, cumulated


@dataclass(frozen=True, slots=True)
class Tokens:
    prompt: int = 0
    cached: int = 0
    """Prompt tokens that were in the KV cache already."""
    completion: int = 0

    def plus(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.cached + other.cached, self.completion + other.completion)


class Speed:
    """Tokens per second over the last WINDOW_SECONDS."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, str]] = deque()

    def note(self, label: str, now: float) -> None:
        self._events.append((now, label))
        self._forget(now)

    def rates(self, now: float) -> dict[str, float]:
        """Return the tokens per second by label, for labels that have any."""
        self._forget(now)
        if not self._events:
            return {}
        seconds = max(1.0, now - self._events[0][0])
        return {label: count / seconds for label, count in Counter(label for _, label in self._events).items()}

    def _forget(self, now: float) -> None:
        while self._events and self._events[0][0] < now - WINDOW_SECONDS:
            self._events.popleft()


class Counters:
    def __init__(self, *, started: float = 0.0) -> None:
        """`started`: when the server started, in seconds of time.monotonic, like all times here."""
        self.started = started
        self.requests: Counter[tuple[str, int, str]] = Counter()
        """Number of requests by route, status and adapter label."""
        self.tokens: dict[str, Tokens] = {}
        """Tokens by adapter label."""
        self.first_token: dict[str, Histogram] = {}
        """Times to first token in seconds, by adapter label."""
        self.gaps: dict[str, Histogram] = {}
        """Inter-token latencies in seconds, by adapter label."""
        self.speed = Speed()
        self._labels: set[str] = set()
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def label(self, names: Iterable[str]) -> str:
        """Return the label of a request that uses these adapters."""
        given = tuple(names)
        if len(given) != 1:
            return SEVERAL if given else BASE
        if len(self._labels) < LABELS:
            self._labels.add(given[0])
        return given[0] if given[0] in self._labels else OTHERS

    def observe_first_token(self, label: str, seconds: float) -> None:
        """Count the first token of an answer, `seconds` after the request."""
        self.first_token.setdefault(label, Histogram(FIRST_TOKEN_SECONDS)).observe(seconds)
        self._recent.append(seconds)

    def observe_gap(self, label: str, seconds: float) -> None:
        """Count another token, `seconds` after the one before."""
        self.gaps.setdefault(label, Histogram(GAP_SECONDS)).observe(seconds)

    def count_tokens(self, label: str, tokens: Tokens) -> None:
        """Count the tokens of an answer that ended."""
        self.tokens[label] = self.tokens.get(label, Tokens()).plus(tokens)

    @property
    def recent_first_token(self) -> float | None:
        """Median time to first token of the last hundred requests, in seconds; None if there were none."""
        return sorted(self._recent)[len(self._recent) // 2] if self._recent else None
