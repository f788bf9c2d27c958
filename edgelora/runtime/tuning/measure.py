"""The measurements of `edgelora tune` without its output: opens the base, runs the search, and returns the result."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from edgelora.backends.registry import spec_for
from edgelora.core.config import Weights
from edgelora.core.errors import UsageError
from edgelora.core.machine import OtherWork
from edgelora.runtime.tuning.compare import Verdict
from edgelora.runtime.tuning.record import Conditions, Finding, Tuning, conditions
from edgelora.runtime.tuning.search import (
    BATCHED,
    WEIGHTS_MEASUREMENTS,
    Bench,
    SearchOutcome,
    Tick,
    WeightsOutcome,
    Workload,
    choose_threads,
    choose_weights,
    thread_candidates,
    thread_measurements,
)

if TYPE_CHECKING:
    from edgelora.core.config import Settings
    from edgelora.core.progress import Progress
    from edgelora.store.bases.record import BaseRecord

FINAL = 3
"""Number of final measurements of each kind of step with the chosen settings."""
BUSY = 0.1
"""Share of the machine used by others above which fewer threads than cores are not trusted."""
ROOM = 2.2
"""Free memory needed for repacked weights beside the mapped ones, as a multiple of the base's size."""


class OpenedBase(Bench, Protocol):
    def close(self) -> None: ...


OpenBench = Callable[[Weights], OpenedBase]


def measure(record: BaseRecord, settings: Settings, progress: Progress | None) -> Tuning:
    """Measure the base and return the tuning. Takes seconds for a small base, minutes for a large one; stores nothing.

    Raises UsageError for an MLX base, BaseError, BackendError, and any exception of `progress`.
    """
    backend = spec_for(record.format)
    if not backend.tunable:
        raise UsageError("not_tunable", f"{record.name} runs on {backend.display_name}, which has nothing to tune.")

    def open_bench(weights: Weights) -> OpenedBase:
        from edgelora.runtime.tuning.trial import TimedBackend

        label = f"Loading {record.name}, {weights}"
        return TimedBackend.open(
            record.path,
            shape=record.identity.fingerprint.shape,
            weights=weights,
            kernel=settings.kernel,
            progress=None if progress is None else lambda part: progress(label, round(part * 100), 100),
        )

    return search(record.name, open_bench, repacked_fits=_repacked_fits(record.nbytes), progress=progress)


def search(
    name: str,
    open_bench: OpenBench,
    *,
    repacked_fits: bool,
    progress: Progress | None = None,
    where: Conditions | None = None,
    others: Callable[[], float] | None = None,
    order: random.Random | None = None,
    clock: Callable[[], float] = time.time,
) -> Tuning:
    """Every question in turn, over benches that `open_bench` opens. `others`: what share of the machine they had."""
    where = where or conditions()
    others = others or OtherWork().share
    order = order or random.Random()
    candidates = thread_candidates(where.cores, where.processors)
    weights: WeightsOutcome | None = None
    with _counted(progress, _measurements(candidates, repacked_fits)) as tick, closing(open_bench("mapped")) as mapped:
        single = choose_threads(mapped, (Workload.ONE,), candidates, where.cores, order=order, tick=tick)
        many = choose_threads(mapped, BATCHED, candidates, where.cores, order=order, tick=tick)
        busy = others()
        if busy > BUSY:
            single, many = (_not_fewer(threads_found, where.cores) for threads_found in (single, many))
        threads = {Workload.ONE: single.chosen, Workload.BATCH: many.chosen, Workload.PROMPT: many.chosen}
        if repacked_fits:
            with closing(open_bench("repacked")) as repacked:
                weights = choose_weights(mapped, repacked, threads, order=order, tick=tick)
                seconds = _final(repacked if weights.chosen == "repacked" else mapped, threads, tick)
        else:
            seconds = _final(mapped, threads, tick)
    return Tuning(
        base=name,
        conditions=where,
        threads=single.chosen,
        batch_threads=many.chosen,
        weights=None if weights is None else weights.chosen,
        findings=tuple(_findings(single, many, weights, default=where.cores)),
        seconds=seconds,
        others=round(busy, 3),
        created=clock(),
    )


def _not_fewer(found: SearchOutcome, default: int) -> SearchOutcome:
    """Beside busy neighbours fewer threads are faster, whatever they are on a machine that rests."""
    return replace(found, chosen=default) if found.chosen < default else found


def _measurements(candidates: Sequence[int], repacked_fits: bool) -> int:
    """Return how many there will be at most."""
    threads = thread_measurements(candidates, (Workload.ONE,)) + thread_measurements(candidates, BATCHED)
    return threads + len(Workload) * FINAL + (WEIGHTS_MEASUREMENTS if repacked_fits else 0)


@contextmanager
def _counted(progress: Progress | None, total: int) -> Iterator[Tick]:
    """A tick that reports progress, and the end of it however the block ends."""
    done = 0

    def tick() -> None:
        nonlocal done
        if progress is not None:
            progress("Measuring", min(done, total - 1), total)
        done += 1

    try:
        yield tick
    finally:
        if progress is not None:
            progress("Measuring", total, total)


def _final(bench: Bench, threads: dict[Workload, int], tick: Tick) -> dict[Workload, float]:
    seconds: dict[Workload, float] = {}
    for work, count in threads.items():
        taken = []
        for _ in range(FINAL):
            tick()
            taken.append(bench.seconds(work, count))
        seconds[work] = statistics.median(taken)
    return seconds


def _findings(
    one: SearchOutcome, many: SearchOutcome, weights: WeightsOutcome | None, *, default: int
) -> Iterator[Finding]:
    for question, outcome in (("threads", one), ("batch threads", many)):
        rival = None if outcome.rival is None else str(outcome.rival)
        yield _finding(question, str(outcome.chosen), str(default), rival, outcome.verdict)
    if weights is not None:
        yield _finding("weights", weights.chosen, "mapped", "repacked", weights.verdict)


def _finding(question: str, chosen: str, default: str, rival: str | None, verdict: Verdict | None) -> Finding:
    sure = verdict is not None and (verdict.surely_faster() or verdict.surely_slower())
    return Finding(question, chosen, default, rival, None if verdict is None else verdict.ratio, sure)


def _repacked_fits(nbytes: int) -> bool:
    import psutil

    return bool(psutil.virtual_memory().available > ROOM * nbytes)
