"""Which settings are measured, how often, and which of them win."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.runtime.tuning.search import (
    BATCHED,
    DUEL,
    SCREENING,
    WEIGHTS_MEASUREMENTS,
    Workload,
    choose_threads,
    choose_weights,
    thread_candidates,
    thread_measurements,
)


class FakeBench:
    """Takes the seconds it is told for a number of threads, times noise."""

    def __init__(self, seconds: Mapping[int, float], *, noise: Callable[[], float] = lambda: 1.0) -> None:
        self._seconds = seconds
        self._noise = noise
        self.asked: list[tuple[Workload, int]] = []

    def seconds(self, work: Workload, threads: int) -> float:
        self.asked.append((work, threads))
        return self._seconds[threads] * self._noise()


def search(
    bench: FakeBench, candidates: tuple[int, ...], default: int, works: tuple[Workload, ...] = (Workload.ONE,)
) -> int:
    order = random.Random(1)
    return choose_threads(bench, works, candidates, default, order=order, tick=lambda: None).chosen


@pytest.mark.parametrize(
    ("cores", "processors", "expected"),
    [(1, 1, (1,)), (2, 2, (1, 2)), (4, 8, (2, 3, 4, 6, 8)), (8, 8, (4, 6, 7, 8)), (14, 20, (7, 10, 13, 14, 17, 20))],
)
def test_candidates(cores: int, processors: int, expected: tuple[int, ...]) -> None:
    """Around the cores and up to the processors; a handful on any machine."""
    assert thread_candidates(cores, processors) == expected


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 256), st.integers(0, 256))
def test_candidates_of_any_machine(cores: int, more: int) -> None:
    """The default is among them, none is more than there are processors, and there are six at most."""
    found = thread_candidates(cores, cores + more)
    assert cores in found and found[0] >= 1 and found[-1] <= cores + more and len(found) <= 6


def test_the_fastest_wins() -> None:
    """Whatever it is, where it is faster than the default by more than a little."""
    assert search(FakeBench({4: 2.0, 6: 1.0, 8: 1.5}), (4, 6, 8), 8) == 6
    assert search(FakeBench({4: 2.0, 6: 1.49, 8: 1.5}), (4, 6, 8), 8) == 8


def test_noise_keeps_the_default() -> None:
    """Equal settings on a machine that slows down tenfold at times: the default stays."""
    rng = random.Random(3)
    bench = FakeBench({1: 1.0, 2: 1.0}, noise=lambda: rng.choice((1.0, 1.1, 1.3, 10.0)))
    assert search(bench, (1, 2), 2) == 2


def test_a_real_difference_in_noise() -> None:
    """One that takes half the time is found although single steps jump about."""
    rng = random.Random(4)
    bench = FakeBench({4: 0.5, 8: 1.0}, noise=lambda: rng.lognormvariate(0.0, 0.3))
    assert search(bench, (4, 8), 8) == 4


def test_a_default_that_is_surely_best_is_not_measured_twice() -> None:
    """Where the short round settles it, there is no long one; where it does not, the best meets the default again."""
    clear, close = FakeBench({1: 2.0, 2: 1.0}), FakeBench({1: 0.9, 2: 1.0})
    search(clear, (1, 2), 2)
    search(close, (1, 2), 2)
    assert len(clear.asked) == 2 * SCREENING
    assert len(close.asked) == 2 * (SCREENING + DUEL) == thread_measurements((1, 2), (Workload.ONE,))


def test_rounds_are_interleaved() -> None:
    """Every candidate once in every round, all works of one in a row: never all rounds of one setting first."""
    bench = FakeBench({1: 3.0, 2: 1.0, 3: 2.0})
    search(bench, (1, 2, 3), 2, BATCHED)
    for start in range(0, len(bench.asked), 6):
        assert Counter(bench.asked[start : start + 6]) == Counter((w, t) for w in BATCHED for t in (1, 2, 3))


def test_no_choice() -> None:
    """One core, one processor: nothing is measured."""
    bench = FakeBench({1: 1.0})
    found = choose_threads(bench, (Workload.ONE,), (1,), 1, order=random.Random(0), tick=lambda: None)
    assert (found.chosen, found.rival, bench.asked) == (1, None, [])
    assert thread_measurements((1,), BATCHED) == 0


@pytest.mark.parametrize(
    ("repacked", "chosen"), [(0.5, "repacked"), (0.95, "mapped"), (1.0, "mapped"), (2.0, "mapped")]
)
def test_weights(repacked: float, chosen: str) -> None:
    """Repacked weights must be a tenth faster: they take time and memory to make."""
    threads = {Workload.ONE: 1, Workload.BATCH: 2, Workload.PROMPT: 2}
    benches = FakeBench({1: 1.0, 2: 1.0}), FakeBench({1: repacked, 2: repacked})
    ticks: list[None] = []
    found = choose_weights(*benches, threads, order=random.Random(0), tick=lambda: ticks.append(None))
    assert found.chosen == chosen and found.verdict.ratio == pytest.approx(repacked)
    assert len(ticks) == WEIGHTS_MEASUREMENTS
    assert set(benches[0].asked) == {(Workload.ONE, 1), (Workload.BATCH, 2), (Workload.PROMPT, 2)}


def test_weights_by_the_whole_turn() -> None:
    """Faster prompts do not outweigh slower answers, nor the other way round: the time of a turn decides."""

    class Mixed(FakeBench):
        def seconds(self, work: Workload, threads: int) -> float:
            return {Workload.ONE: 1.0, Workload.BATCH: 6.0, Workload.PROMPT: 8.0}[work]

    threads = dict.fromkeys(Workload, 1)
    found = choose_weights(FakeBench({1: 1.0}), Mixed({}), threads, order=random.Random(0), tick=lambda: None)
    assert found.verdict.ratio == pytest.approx((64 * 1 + 8 * 6 + 4 * 8) / (64 + 8 + 4))
