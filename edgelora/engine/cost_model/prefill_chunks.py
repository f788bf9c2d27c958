"""The number of prefill tokens in a step, chosen from step costs. Pure; `step_costs` owns the measurements.

In a step with decoding sequences, the step's duration is the gap between their tokens. The chunk is therefore limited
by the duration of a step without prompts. Within that limit, the size with the most tokens per squared second wins: a
longer step must advance prompts by more than it lengthens the gap. A size without measurements is tried if its upper
bound is within the promised gap, so chunks can grow several times over from one try to the next.

A step of prompts alone stalls no answer, but no request can be cancelled or join while it runs. It is limited in
seconds, less strictly if a longer step is faster per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from edgelora.engine.cost_model.step_costs import StepCosts, sizes

BAR = 4.0
"""Promised p99 gap between tokens while a prompt is prefilled, as a multiple of the step without the prompt.

Before any measurement it limits the number of rows instead, since n times as many rows cost at most n times as much.
"""
TRY = 3.75
"""The same limit for the upper bound of an unmeasured size, which is derived from other sizes and not exact."""
AIM = 2.75
"""The same limit for measured sizes, whose estimate is that of undisturbed steps.

The rest of BAR is for disturbed steps: on a virtual machine with busy neighbours, one step in fifty took 1.5 to 2 times
as long.
"""
UNNOTICED = 0.01
"""Seconds by which a gap may always grow, whatever the ratio: no reader follows a hundred tokens a second."""
ALONE_SECONDS = 1.0
"""Maximum seconds of a step of prompts alone."""
ALONE_LONGEST = 4.0
"""Maximum seconds of such a step if longer steps process prompts faster."""
ALONE_GAIN = 1.1
"""Minimum speed-up in tokens per second that justifies a longer step.

Kernels that unpack the weights once per step are 1.35 times as fast with 128 rows as with 32.
"""
ALONE_TOKENS = 32
"""Minimum tokens of a step of prompts alone, whatever it takes: two of the kernels' largest blocks (16 rows).

On the 8B base with 2 cores, a row costs 36 ms in large steps, 46 ms in a step of 16 and about 40 ms in one of 32.
"""


@dataclass(frozen=True, slots=True)
class DecodeLoad:
    """The decoding sequences that run beside the prompts, in rows."""

    here: int
    """Number of rows in the same step."""
    everywhere: int
    """Number of rows including the steps of other groups, on a backend that cannot mix adapters."""
    groups: int = 1
    """Number of groups with prompts; a decoding sequence waits for the chunks of each."""


ALONE = DecodeLoad(here=0, everywhere=0)
"""The load without decoding sequences, so that no gap has to be kept short."""


def choose_piece(costs: StepCosts, decode_load: DecodeLoad, *, room: int) -> int:
    """Return the number of prompt tokens in the next step: 1 to `room`, its capacity beside `decode_load.here`."""
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
    """Return True if a step of `rows` is short enough, or may be tried."""
    if costs.known(rows) is not None:
        return _within(costs.best(rows), aim)
    return rows <= blind or (_within(costs.at_most(rows), bound) and (costs.guess(rows) or 0.0) <= aim)


def _allowed(ratio: float, here: float, everywhere: float, decode_load: DecodeLoad) -> float:
    """Return the maximum cost of a step if the decoding rows cost `here` and `everywhere`, in the same unit."""
    return here + (ratio - 1) * everywhere / decode_load.groups


def _within(seconds: float | None, limit: float) -> bool:
    return seconds is not None and seconds <= limit
