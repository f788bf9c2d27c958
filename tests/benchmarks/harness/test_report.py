"""Figures of a table from exchanges whose times are known."""

from __future__ import annotations

import math

import pytest

from benchmarks.harness.client import Exchange
from benchmarks.harness.report import figures
from benchmarks.harness.targets import Answer
from benchmarks.harness.workload import Job


def exchange(*, intended: float, late: float = 0.0, ended: float | None = None, status: int = 200) -> Exchange:
    return Exchange(Job(0.0, 0, (1,), 4), intended, sent=intended + late, status=status, ended=ended)


def test_first_tokens_count_from_the_intended_arrival() -> None:
    """A client that sent late does not make the server look fast: no coordinated omission."""
    found = figures([(exchange(intended=100.0, late=5.0, ended=107.0), Answer(2, [106.5, 107.0]))])
    assert found.first_p50 == 6.5 and found.attainment == 0.0 and found.late == 5.0


def test_what_was_not_answered_missed_the_objective() -> None:
    """Attainment is of all jobs: answered in time, answered late, refused, lost."""
    reads = [
        (exchange(intended=0.0, ended=3.0), Answer(3, [1.0, 2.0, 3.0])),
        (exchange(intended=1.0, ended=9.0), Answer(1, [8.0])),
        (exchange(intended=2.0, ended=2.1, status=429), None),
        (exchange(intended=3.0, status=0), None),
    ]
    found = figures(reads)
    assert (found.jobs, found.answered, found.refused, found.lost) == (4, 2, 1, 1)
    assert found.attainment == 0.25
    assert (found.seconds, found.tokens) == (9.0, 4)
    assert found.requests_per_second == pytest.approx(2 / 9) and found.tokens_per_second == pytest.approx(4 / 9)
    assert (found.gap_p50, found.gap_p99) == (1.0, 1.0)


def test_no_answer_has_no_latency() -> None:
    """Not zero, which would look fast."""
    found = figures([(exchange(intended=0.0, ended=1.0, status=429), None)])
    assert math.isnan(found.first_p50) and math.isnan(found.gap_p99) and found.attainment == 0.0
