"""The number of prefill tokens in a step, chosen from step costs. Pure; `step_costs` owns the measurements.

Beside decoding sequences the step's time is the gap between their tokens, so the piece is held against their step
alone, and within that a longer step must be worth it: of two the better is the one that brings prompts on by more than
it makes the gap longer (tokens by the square of the seconds is the most). A size that nothing tells of is tried where
the worst it can cost is within what was promised; so the pieces grow to several times from one try to the next.

A step of prompts alone stalls nobody, but nothing can be cancelled and nobody can join while it runs: it is held
against the clock, and less so where a longer one is faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from edgelora.engine.cost_model.step_costs import StepCosts, sizes

BAR = 4.0
"""The gap between tokens while a prompt arrives, by the step without it: what is promised for 99 in 100. Before
anything is known so many times the rows are tried: n times as many cost at most n times as much."""
TRY = 3.75
"""The same, for the worst that a size can cost by what was measured of others, which is not exact."""
AIM = 2.75
"""The same, for sizes that were measured. Their estimate is of undisturbed steps; the rest of BAR is for the others:
on a virtual machine whose neighbours worked, one step in fifty took 1.5 to 2 times as long."""
UNNOTICED = 0.01
"""Seconds that a gap may grow by whatever the ratio: nobody reads a hundred tokens a second."""
ALONE_SECONDS = 1.0
"""Seconds that a step of prompts alone may take."""
ALONE_LONGEST = 4.0
"""The same where longer steps bring the prompts on faster."""
ALONE_GAIN = 1.1
"""By how much. Kernels that unpack the weights for a whole step are 1.35 times as fast with 128 rows as with 32."""
ALONE_TOKENS = 32
"""Such a step's tokens at least, whatever they take: two of the largest blocks (16 rows) that kernels work in. On the
8B base with 2 cores, where a row costs 36 ms in large steps, it costs 46 in a step of 16 and about 40 in one of 32."""


@dataclass(frozen=True, slots=True)
class DecodeLoad:
    """The decoding sequences beside the prompts, in rows."""

    here: int
    """In the same step."""
    everywhere: int
    """In the steps of other groups as well, where a backend cannot mix adapters."""
    groups: int = 1
    """Number of groups with prompts; a reader waits for the chunks of each."""


ALONE = DecodeLoad(here=0, everywhere=0)
"""No decoding sequences, so that no gap is kept short."""


def choose_piece(costs: StepCosts, decode_load: DecodeLoad, *, room: int) -> int:
    """Tokens of prompts in the next step: 1 to `room`, which is what the step holds besides `decode_load.here`."""
    return _beside(costs, decode_load, room) if decode_load.everywhere else _alone(costs, room)


def _alone(costs: StepCosts, room: int) -> int:
    short = [rows for rows in sizes(room) if _within(costs.at_most(rows), ALONE_SECONDS)]
    best = rows = max((ALONE_TOKENS, *short[-1:]))
    seconds = fastest = costs.seconds(rows)
    while seconds is not None and fastest is not None:
        if rows / seconds >= ALONE_GAIN * best / fastest:
            best, fastest = rows, seconds
        rows *= 2
        if rows > room or not _within(costs.at_most(rows), ALONE_LONGEST):
            return min(room, best)
        seconds = costs.seconds(rows)
    return min(room, rows)


def _beside(costs: StepCosts, decode_load: DecodeLoad, room: int) -> int:
    here, everywhere = costs.at_least(decode_load.here), costs.at_least(decode_load.everywhere)
    unnoticed = here + UNNOTICED / decode_load.groups
    aim, bound = (max(unnoticed, _allowed(ratio, here, everywhere, decode_load)) for ratio in (AIM, TRY))
    blind = _allowed(BAR, decode_load.here, decode_load.everywhere, decode_load)
    calm, best, worth = decode_load.here + 1, decode_load.here + 1, 0.0
    for rows in sizes(decode_load.here + room):
        if rows <= decode_load.here or not _permitted(costs, rows, aim=aim, bound=bound, blind=blind):
            continue
        seconds = costs.known(rows) or costs.guess(rows)
        if seconds is None:
            best, worth = rows, inf
            continue
        calm = rows if seconds <= unnoticed else calm
        gap = seconds + max(0.0, everywhere - here)
        if (rows - decode_load.here) / gap**2 > worth:
            best, worth = rows, (rows - decode_load.here) / gap**2
    return max(calm, best) - decode_load.here


def _permitted(costs: StepCosts, rows: int, *, aim: float, bound: float, blind: float) -> bool:
    """Return whether such a step is short enough, or may be tried."""
    if costs.known(rows) is not None:
        return _within(costs.best(rows), aim)
    return rows <= blind or (_within(costs.at_most(rows), bound) and (costs.guess(rows) or 0.0) <= aim)


def _allowed(ratio: float, here: float, everywhere: float, decode_load: DecodeLoad) -> float:
    """Return what the step may cost where the decoding rows cost `here` and `everywhere`, in the same unit."""
    return here + (ratio - 1) * everywhere / decode_load.groups


def _within(seconds: float | None, limit: float) -> bool:
    return seconds is not None and seconds <= limit
