"""The search for the fastest settings: the order of measurements and the decisions. Knows no backend, no clock
and no disk.

Threads are looked for in two rounds: a short one over every candidate, then the best of it against the default alone,
on fresh measurements, because the best of several is partly the luckiest. The default stays unless it is surely beaten.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from edgelora.core.config import Weights
from edgelora.runtime.tuning.compare import Verdict, judge

SCREENING = 5
"""Number of rounds over all candidates."""
DUEL = 12
"""Number of rounds of the best candidate against the default, and of mapped against repacked weights."""
WEIGHTS_MARGIN = 0.10
"""Minimum advantage of repacked weights: they cost seconds at every start, and memory."""


class Workload(StrEnum):
    """A kind of step that is timed."""

    ONE = "one"
    """A token of one answer."""
    BATCH = "batch"
    """A token of each of eight answers."""
    PROMPT = "prompt"
    """A piece of a prompt, 64 tokens."""


BATCHED = (Workload.BATCH, Workload.PROMPT)
BATCH_ROWS, PROMPT_ROWS = 8, 64

# A turn of a chat: 256 tokens of prompt and 128 of answer, half of them alone and half in company. In steps of each.
_TURN = {Workload.ONE: 64, Workload.BATCH: 64 / BATCH_ROWS, Workload.PROMPT: 256 / PROMPT_ROWS}


class Bench(Protocol):
    """A base held in one way."""

    def seconds(self, work: Workload, threads: int) -> float:
        """Return what one step takes, measured now."""
        ...


Tick = Callable[[], None]
"""Called before every measurement; may raise to end the search."""


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """The outcome for one question: what to use, and how its nearest rival did against the default."""

    chosen: int
    rival: int | None
    """The candidate the default was compared with last; None where there was no other."""
    verdict: Verdict | None


def thread_candidates(default: int, processors: int) -> tuple[int, ...]:
    """Counts worth trying, ascending: around the default (a core left to others, the big cores of a mixed processor),
    and every logical processor. One thread alone only where there are few."""
    some = {default, default - 1, round(0.75 * default), default // 2, (default + processors) // 2, processors}
    return tuple(sorted(count for count in some if 1 <= count <= processors))


def choose_threads(
    bench: Bench,
    works: Sequence[Workload],
    candidates: Sequence[int],
    default: int,
    *,
    order: random.Random,
    tick: Tick,
) -> SearchOutcome:
    """Return the number of threads for steps of these kinds."""
    rivals = [count for count in candidates if count != default]
    if not rivals:
        return SearchOutcome(default, None, None)
    screened = _rounds(bench, works, [default, *rivals], SCREENING, order=order, tick=tick)
    verdicts = {count: judge(screened[count], screened[default]) for count in rivals}
    best = min(rivals, key=lambda count: verdicts[count].ratio)
    if verdicts[best].surely_slower():
        return SearchOutcome(default, best, verdicts[best])
    fresh = _rounds(bench, works, [default, best], DUEL, order=order, tick=tick)
    verdict = judge(fresh[best], fresh[default])
    return SearchOutcome(best if verdict.surely_faster() else default, best, verdict)


def thread_measurements(candidates: Sequence[int], works: Sequence[Workload]) -> int:
    """Return how many measurements `choose_threads` takes at most."""
    return (SCREENING * len(candidates) + 2 * DUEL) * len(works) if len(candidates) > 1 else 0


def _rounds(
    bench: Bench, works: Sequence[Workload], settings: Sequence[int], rounds: int, *, order: random.Random, tick: Tick
) -> dict[int, list[float]]:
    """For each setting one time a round: the geometric mean over the works, so that none outweighs the others."""
    seconds: dict[int, list[float]] = {threads: [] for threads in settings}
    for _ in range(rounds):
        for threads in order.sample(list(settings), len(settings)):
            logarithms = []
            for work in works:
                tick()
                logarithms.append(math.log(bench.seconds(work, threads)))
            seconds[threads].append(math.exp(statistics.fmean(logarithms)))
    return seconds


@dataclass(frozen=True, slots=True)
class WeightsOutcome:
    chosen: Weights
    verdict: Verdict
    """Repacked against mapped, by the time of a turn."""


def choose_weights(
    mapped: Bench, repacked: Bench, threads: dict[Workload, int], *, order: random.Random, tick: Tick
) -> WeightsOutcome:
    """Return whether repacking pays where the base stays in memory."""
    turns: dict[Weights, list[float]] = {"mapped": [], "repacked": []}
    ways: list[tuple[Weights, Bench]] = [("mapped", mapped), ("repacked", repacked)]
    for _ in range(DUEL):
        for weights, bench in order.sample(ways, len(ways)):
            turn = 0.0
            for work, steps in _TURN.items():
                tick()
                turn += steps * bench.seconds(work, threads[work])
            turns[weights].append(turn)
    verdict = judge(turns["repacked"], turns["mapped"])
    return WeightsOutcome("repacked" if verdict.surely_faster(WEIGHTS_MARGIN) else "mapped", verdict)


WEIGHTS_MEASUREMENTS = 2 * DUEL * len(_TURN)
