"""Synthetic machines: what a step of so many rows takes, in seconds, and what a busy machine makes of it."""

from __future__ import annotations

import random
from collections.abc import Callable

Machine = Callable[[int], float]


def bandwidth_bound(rows: int) -> float:
    """The weights are read once for all rows: 20 of them cost about what one does, then arithmetic is the limit."""
    return max(0.1, 0.005 * rows) + 0.0002 * rows


def arithmetic_bound(rows: int) -> float:
    """Nothing is saved by computing rows together."""
    return 0.125 * rows


def in_blocks(rows: int) -> float:
    """As measured on an 8B base with 2 AVX-512 cores: blocks of 16 and of 4 rows, the rest one by one."""
    if rows < 4:
        return 0.125 * rows
    sixteens, rest = divmod(rows, 16)
    fours, ones = divmod(rest, 4)
    return 0.13 + 0.6 * sixteens + 0.21 * fours + 0.11 * ones


def in_tiles(rows: int) -> float:
    """As measured on an 8B base whose weights are mapped: from 8 rows on they are unpacked once for all rows."""
    return 0.06 + 0.085 * rows if rows < 8 else 0.5 + 0.016 * rows


def tiny(rows: int) -> float:
    """A step is mostly its beginning and its end."""
    return 0.001 + 0.00005 * rows


MACHINES: tuple[Machine, ...] = (bandwidth_bound, arithmetic_bound, in_blocks, in_tiles, tiny)


def disturbed(machine: Machine, *, seed: int, share: float) -> Machine:
    """That share of the steps takes up to ten times as long, and all scatter by a few in a hundred."""
    chance = random.Random(seed)

    def step(rows: int) -> float:
        times = chance.uniform(1.0, 10.0) if chance.random() < share else 1.0
        return machine(rows) * chance.lognormvariate(0.0, 0.03) * times

    return step
