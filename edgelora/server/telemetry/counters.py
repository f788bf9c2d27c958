"""What the server has seen since its start: requests, tokens, times, live speed. Plain numbers; words none of them.

Everything is bounded: routes are those of the application, adapters have at most LABELS labels. The server's loop only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from edgelora.engine.adapters.counts import OTHERS

LABELS = 64
"""Adapters with a label of their own; all later ones share OTHERS. A name never begins with a bracket."""
NO_MODEL = "(none)"
"""Of requests that asked for no answer."""
BASE = "(base)"
SEVERAL = "(several)"

FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
GAP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WINDOW_SECONDS = 10.0
"""What the live speed is an average of."""
_RECENT = 100
"""First tokens of which the live median is taken."""


@dataclass(slots=True)
class Histogram:
    bounds: tuple[float, ...]
    """Upper ends of all buckets but the last, which has none."""
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Upper ends, infinity last, and how many values are at most that."""
        seen = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            yield bound, seen


@dataclass(frozen=True, slots=True)
class Tokens:
    prompt: int = 0
    cached: int = 0
    """Of the prompts', those that were not computed."""
    completion: int = 0

    def plus(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.cached + other.cached, self.completion + other.completion)


class Speed:
    """Events a second over the last WINDOW_SECONDS, or since the first one in them."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, str]] = deque()

    def note(self, label: str, now: float) -> None:
        self._events.append((now, label))
        self._forget(now)

    def rates(self, now: float) -> dict[str, float]:
        """By label; those without an event are left out."""
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
        """`started`: when the server began, by the clock that all times here are of."""
        self.started = started
        self.requests: Counter[tuple[str, int, str]] = Counter()
        """By route, status and adapter."""
        self.tokens: dict[str, Tokens] = {}
        self.first_token: dict[str, Histogram] = {}
        self.gaps: dict[str, Histogram] = {}
        """These by adapter."""
        self.speed = Speed()
        self._labels: set[str] = set()
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def label(self, names: Iterable[str]) -> str:
        """Of a request on these adapters."""
        given = tuple(names)
        if len(given) != 1:
            return SEVERAL if given else BASE
        if len(self._labels) < LABELS:
            self._labels.add(given[0])
        return given[0] if given[0] in self._labels else OTHERS

    def began(self, label: str, seconds: float) -> None:
        """The first piece of an answer came, so long after its request."""
        self.first_token.setdefault(label, Histogram(FIRST_TOKEN_SECONDS)).observe(seconds)
        self._recent.append(seconds)

    def went_on(self, label: str, seconds: float) -> None:
        """The next piece came, so long after the one before."""
        self.gaps.setdefault(label, Histogram(GAP_SECONDS)).observe(seconds)

    def answered(self, label: str, tokens: Tokens) -> None:
        self.tokens[label] = self.tokens.get(label, Tokens()).plus(tokens)

    @property
    def recent_first_token(self) -> float | None:
        """Seconds, the median of the last hundred; None where there was none."""
        return sorted(self._recent)[len(self._recent) // 2] if self._recent else None
