"""How many tokens of prompts a step holds, chosen from what steps cost. Pure; `costs.py` owns the measurements.

Beside decoding sequences the step's time is the gap between their tokens, so the piece is held against their step
alone: the newcomer waits for its prompt, so it is as large as AIM permits. A size that is not known yet is tried where
the worst it can cost is within what was promised; so the pieces grow to several times from one try to the next.

A step of prompts alone stalls nobody, but nothing can be cancelled and nobody can join while it runs: it is held
against the clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgelora.costs import StepCosts, sizes

BAR = 4.0
"""The gap between tokens while a prompt arrives, by the step without it: what is promised for 99 in 100. Before
anything is known so many times the rows are tried: n times as many cost at most n times as much."""
TRY = 3.75
"""The same, for the worst that a size can cost by what was measured of others, which is not exact."""
AIM = 3.25
"""The same, for sizes that were measured. Their estimate is of undisturbed steps; the rest of BAR is for the others."""
UNNOTICED = 0.01
"""Seconds that a gap may grow by whatever the ratio: nobody reads a hundred tokens a second."""
ENOUGH = 0.9
"""A piece that brings prompts on at this part of the fastest rate is enough: a smaller gap is worth the rest."""

ALONE_SECONDS = 1.0
"""What a step of prompts alone may take."""
ALONE_TOKENS = 32
"""Such a step's tokens at least, whatever they take: two of the largest blocks (16 rows) that kernels work in. On the
8B base with 2 cores, where a row costs 36 ms in large steps, it costs 46 in a step of 16 and about 40 in one of 32."""


@dataclass(frozen=True, slots=True)
class Company:
    """Who decodes while the prompts are computed, in rows."""

    here: int
    """In the same step."""
    everywhere: int
    """In the steps of other groups as well, where a backend cannot mix adapters."""
    groups: int = 1
    """How many groups have prompts: a reader waits for the pieces of each."""


def choose_piece(costs: StepCosts, company: Company, *, room: int) -> int:
    """Tokens of prompts in the next step: 1 to `room`, which is what the step holds besides `company.here`."""
    return _beside(costs, company, room) if company.everywhere else _alone(costs, room)


def _alone(costs: StepCosts, room: int) -> int:
    fits = [rows for rows in sizes(room) if _within(costs.at_most(rows), ALONE_SECONDS)]
    return min(room, max((ALONE_TOKENS, *fits[-1:])))


def _beside(costs: StepCosts, company: Company, room: int) -> int:
    here, everywhere = costs.at_least(company.here), costs.at_least(company.everywhere)
    unnoticed = here + UNNOTICED / company.groups
    aim, bound = (max(unnoticed, _allowed(ratio, here, everywhere, company)) for ratio in (AIM, TRY))
    blind = _allowed(BAR, company.here, company.everywhere, company)
    rates: dict[int, float] = {}
    """Tokens of prompts a second of all groups' steps, by the rows of a step that is known to be short enough."""
    largest = company.here + 1
    for rows in sizes(company.here + room):
        known, best, most = costs.known(rows), costs.best(rows), costs.at_most(rows)
        tried = rows <= blind or (_within(most, bound) and (costs.guess(rows) or 0.0) <= aim)
        if rows > company.here and (_within(best, aim) if known else tried):
            largest = rows
            if known:
                rates[rows] = (rows - company.here) / (known + max(0.0, everywhere - here))
    if largest not in rates:
        return largest - company.here
    fastest = max(rates.values())
    return next(rows - company.here for rows, rate in rates.items() if rate >= ENOUGH * fastest)


def _allowed(ratio: float, here: float, everywhere: float, company: Company) -> float:
    """What the step may cost where the decoding rows cost `here` and `everywhere`, in the same unit."""
    return here + (ratio - 1) * everywhere / company.groups


def _within(seconds: float | None, limit: float) -> bool:
    return seconds is not None and seconds <= limit
