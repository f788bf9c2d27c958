"""From exchanges to the figures of a table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.client import Exchange
from benchmarks.harness.targets import Answer
from benchmarks.harness.workload import SLO_SECONDS

Read = tuple[Exchange, Answer | None]


@dataclass(frozen=True, slots=True)
class Figures:
    """Latencies in seconds; first tokens are counted from the intended arrival. NaN where nothing was answered."""

    jobs: int
    answered: int
    refused: int
    """429s."""
    lost: int
    """Neither answered nor refused."""
    attainment: float
    """Share of all jobs whose first token came within SLO_SECONDS; refused and lost ones missed it."""
    seconds: float
    """From the first intended arrival to the last byte."""
    tokens: int
    first_p50: float
    first_p99: float
    gap_p50: float
    gap_p99: float
    late: float
    """How late the client itself sent, at worst: where this is not small, the client was the limit."""

    @property
    def requests_per_second(self) -> float:
        return self.answered / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def figures(reads: Iterable[Read]) -> Figures:
    """Raises ValueError where there was no job."""
    pairs = list(reads)
    answered = [(exchange, answer) for exchange, answer in pairs if answer is not None]
    first = [answer.times[0] - exchange.intended for exchange, answer in answered]
    gaps = [gap for _, answer in answered for gap in np.diff(answer.times)]
    refused = sum(exchange.refused for exchange, _ in pairs)
    start = min(exchange.intended for exchange, _ in pairs)
    end = max((exchange.ended for exchange, _ in pairs if exchange.ended is not None), default=start)
    return Figures(
        jobs=len(pairs),
        answered=len(answered),
        refused=refused,
        lost=len(pairs) - len(answered) - refused,
        attainment=sum(seconds <= SLO_SECONDS for seconds in first) / len(pairs),
        seconds=end - start,
        tokens=sum(answer.tokens for _, answer in answered),
        first_p50=quantile(first, 0.5),
        first_p99=quantile(first, 0.99),
        gap_p50=quantile(gaps, 0.5),
        gap_p99=quantile(gaps, 0.99),
        late=max(exchange.sent - exchange.intended for exchange, _ in pairs),
    )


def quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else float("nan")
