"""All questions in turn: what is opened, what is measured, what comes out."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from edgelora.core.config import Weights, read_settings
from edgelora.core.errors import Cancelled, UsageError
from edgelora.runtime.tuning.measure import measure, search
from edgelora.runtime.tuning.record import Conditions, Tuning
from edgelora.runtime.tuning.search import Workload
from edgelora.runtime.tuning.trial import TimedBackend
from edgelora.store.bases.record import BaseRecord

WHERE = Conditions("a processor", 4, 8, "library", "kernel")
SECONDS = {Workload.ONE: 0.1, Workload.BATCH: 0.4, Workload.PROMPT: 0.8}


class FakeTrial:
    """Faster with more threads up to `best`, by the weights' factor."""

    def __init__(self, *, best: int, factor: float) -> None:
        self._best = best
        self._factor = factor
        self.closed = False

    def seconds(self, work: Workload, threads: int) -> float:
        return SECONDS[work] * self._factor * (1 + abs(threads - self._best))

    def close(self) -> None:
        self.closed = True


class Trials:
    """Opens fakes, and remembers them by their weights."""

    def __init__(self, *, best: int, repacked: float = 1.0) -> None:
        self._best = best
        self._repacked = repacked
        self.opened: dict[Weights, FakeTrial] = {}

    def __call__(self, weights: Weights) -> FakeTrial:
        factor = self._repacked if weights == "repacked" else 1.0
        self.opened[weights] = FakeTrial(best=self._best, factor=factor)
        return self.opened[weights]


def run(
    trials: Trials, *, fits: bool = True, others: float = 0.0, progress: Callable[[str, int, int], None] | None = None
) -> Tuning:
    return search(
        "base",
        trials,
        repacked_fits=fits,
        progress=progress,
        where=WHERE,
        others=lambda: others,
        order=random.Random(0),
        clock=lambda: 5.0,
    )


def test_all_of_it() -> None:
    """Threads, batch threads, weights; the times with what was chosen; everything closed."""
    trials = Trials(best=3, repacked=0.5)
    tuning = run(trials)
    assert (tuning.threads, tuning.batch_threads, tuning.weights) == (3, 3, "repacked")
    assert tuning.seconds == pytest.approx({work: 0.5 * seconds for work, seconds in SECONDS.items()})
    assert [finding.question for finding in tuning.findings] == ["threads", "batch threads", "weights"]
    assert (tuning.conditions, tuning.created) == (WHERE, 5.0)
    assert all(trial.closed for trial in trials.opened.values()) and len(trials.opened) == 2


def test_without_the_memory_for_both() -> None:
    """The weights stay unmeasured, and no second base is opened."""
    trials = Trials(best=4)
    tuning = run(trials, fits=False)
    assert (tuning.weights, len(tuning.findings), list(trials.opened)) == (None, 2, ["mapped"])


def test_busy_neighbours() -> None:
    """On a busy machine fewer threads are faster, and that is not believed; more threads are."""
    tuning = run(Trials(best=2), others=0.5)
    assert (tuning.threads, tuning.batch_threads, tuning.others) == (4, 4, 0.5)
    assert "others kept the machine busy" in str(tuning.findings[0])
    assert run(Trials(best=2), others=0.05).threads == 2
    assert run(Trials(best=8), others=0.5).threads == 8


@pytest.mark.parametrize("fits", [True, False])
def test_progress(fits: bool) -> None:
    """It grows, never says that it is done before it is, and ends."""
    told: list[tuple[int, int]] = []
    run(Trials(best=4), fits=fits, progress=lambda _, done, total: told.append((done, total)))
    assert told == sorted(told) and len({total for _, total in told}) == 1
    assert all(done < total for done, total in told[:-1]) and told[-1][0] == told[-1][1]


def test_an_interrupt() -> None:
    """What progress raises ends it, and the bases are closed."""

    def interrupt(_label: str, done: int, total: int) -> None:
        if 20 < done < total:
            raise Cancelled

    trials = Trials(best=4)
    with pytest.raises(Cancelled):
        run(trials, progress=interrupt)
    assert trials.opened["mapped"].closed


def test_an_mlx_base(record: BaseRecord) -> None:
    """There is nothing to measure; it says so."""
    with pytest.raises(UsageError, match="MLX"):
        measure(msgspec.structs.replace(record, format="mlx"), read_settings(), None)


def test_real_steps(record: BaseRecord) -> None:
    """On the built-in base every kind of step is timed at any number of threads, and leaves nothing behind."""
    shape = record.identity.fingerprint.shape
    for weights in ("mapped", "repacked"):
        trial = TimedBackend.open(record.path, shape=shape, weights=weights, kernel="auto", progress=None)
        for work in Workload:
            assert all(trial.seconds(work, threads) > 0 for threads in (1, 2, 1))
        assert [trial._backend._ledger.length(sequence) for sequence in range(9)] == [32] * 8 + [0]
        trial.close()


def test_steps_too_short_for_the_clock(record: BaseRecord) -> None:
    """Several are timed, and their median counts; a clock that stands still ends it all the same."""
    trial = TimedBackend.open(
        record.path, shape=record.identity.fingerprint.shape, weights="mapped", kernel="auto", progress=None
    )
    trial._clock = iter([0.0, 0.004, 0.004, 0.012, 0.012, 0.032]).__next__
    assert trial.seconds(Workload.ONE, 1) == pytest.approx(0.008)
    trial._clock = lambda: 0.0
    assert trial.seconds(Workload.ONE, 1) == 0.0
    trial.close()
