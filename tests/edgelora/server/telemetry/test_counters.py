"""The server's counters, whose number is bounded whatever clients send."""

from __future__ import annotations

import pytest

from edgelora.core.events import Failed, Finished, FinishReason, TextDelta, Timings, Usage
from edgelora.engine.adapters.counts import OTHERS
from edgelora.server.telemetry.counters import (
    BASE,
    LABELS,
    NO_MODEL,
    SEVERAL,
    WINDOW_SECONDS,
    Counters,
    Histogram,
    Speed,
    Tokens,
)
from edgelora.server.telemetry.request_record import RequestRecord

USAGE = Usage(prompt_tokens=10, completion_tokens=3, cached_tokens=4)
FINISHED = Finished(FinishReason.STOP, USAGE, Timings(0, 0, 0, 0))


def test_buckets_are_cumulative_and_bounds_belong_to_them() -> None:
    """A value at a bound is in its bucket; the last bucket holds everything."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(value)
    assert list(histogram.buckets()) == [(1.0, 2), (2.0, 3), (float("inf"), 4)] and histogram.total == 102.0


def test_labels_are_bounded() -> None:
    """The first adapters have labels of their own, and keep them; the base and compositions have one each."""
    counters = Counters()
    labels = [counters.label([f"a{number}"]) for number in range(LABELS + 9)]
    assert labels[:LABELS] == [f"a{number}" for number in range(LABELS)] and set(labels[LABELS:]) == {OTHERS}
    assert [counters.label(names) for names in (["a0"], [], ["a0", "a1"])] == ["a0", BASE, SEVERAL]


def test_speed_is_that_of_the_last_seconds() -> None:
    """Events count from the first one in the window; what is older is forgotten."""
    speed = Speed()
    for number in range(20):
        speed.note("a", 100 + number / 10)
    speed.note("b", 102.0)
    assert speed.rates(102.0) == {"a": 10.0, "b": 0.5}
    assert speed.rates(103 + WINDOW_SECONDS) == {} == Speed().rates(0.0)


def test_an_answer_is_counted() -> None:
    """Its first text from the request's head, each next from the one before, its tokens as the usage has them."""
    counters = Counters()
    record = RequestRecord(counters, began=100.0)
    record.adapters = ("a",)
    for event, now in [(TextDelta("x"), 101.0), (None, 105.0), (TextDelta("y"), 106.0), (FINISHED, 107.0)]:
        record.event(event, now)
    record.end("/v1/x", 200)
    assert (counters.first_token["a"].total, counters.gaps["a"].total) == (1.0, 5.0)
    assert counters.tokens == {"a": Tokens(10, 4, 3)} and counters.requests == {("/v1/x", 200, "a"): 1}
    assert counters.recent_first_token == 1.0


def test_answers_of_one_request_are_timed_each_by_itself() -> None:
    """Two answers that come in turns have gaps of their own, and tokens together; their prompt is one."""
    counters = Counters()
    record = RequestRecord(counters, began=0.0)
    record.adapters = ()
    for now in range(4):
        record.event(TextDelta("x"), float(now), choice=now % 2)
    for answer in range(2):
        record.event(FINISHED, 9.0, choice=answer, prompt=answer == 0)
    record.end("/", 200)
    assert sum(counters.gaps[BASE].counts) == 2 and counters.gaps[BASE].total == 4.0
    assert counters.tokens[BASE] == Tokens(10, 4, 6)


@pytest.mark.parametrize("end", [Failed(ValueError()), None])
def test_a_broken_off_answer_counts_as_far_as_it_came(end: Failed | None) -> None:
    """Without a usage the pieces that came are its tokens."""
    counters = Counters()
    record = RequestRecord(counters, began=0.0)
    record.adapters = ("a",)
    record.event(TextDelta("x"), 1.0)
    record.event(end, 2.0)
    record.end("/", 499)
    assert counters.tokens == {"a": Tokens(completion=1)}


def test_a_request_without_an_answer_has_no_tokens() -> None:
    """A list of models leaves a count and nothing else."""
    counters = Counters()
    RequestRecord(counters, began=0.0).end("/v1/models", 200)
    assert counters.requests == {("/v1/models", 200, NO_MODEL): 1} and not counters.tokens and not counters.gaps
    assert counters.recent_first_token is None
