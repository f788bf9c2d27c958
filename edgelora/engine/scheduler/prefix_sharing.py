"""The decision whether a new request waits for another one to compute a shared prefix. Pure; the scheduler acts.

Waiting costs the newcomer nothing: the other request is ahead, and uses the room in each step that the newcomer's rows
would take. The computed prefix is then copied, which costs nothing either. The newcomer does not starve: it waits only
for requests that run or start before it, keeps its place in the queue and in the batch, and waits at most HOLD_PLANS
plans.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgelora.core.kv import common_length, parting
from edgelora.engine.scheduler.sequence import Sequence
from edgelora.engine.scheduler.states import State

WORTH = 16
"""Minimum number of tokens saved by waiting; fewer cost less than the turn they take."""
HOLD_PLANS = 64
"""Maximum number of plans to wait: a prefix of 1,000 tokens beside other answers, at 16 tokens a step."""


def waits(sequence: Sequence, ahead: Iterable[Sequence], *, have: int) -> bool:
    """Return True if the sequence should wait for a shared prefix.

    `ahead`: sequences that run, or start before it in this plan. `have`: tokens it need not compute if it starts now.
    """
    if sequence.held >= HOLD_PLANS:
        return False
    return any(_common(sequence, other) - max(other.computed, have) >= WORTH for other in ahead)


def _common(sequence: Sequence, other: Sequence) -> int:
    """Return how many tokens of the other's prompt it could reuse once they are computed."""
    if other.state is State.DECODE:
        return 0
    reach = min(len(sequence.tokens) - 1, parting(other.key, sequence.key))
    return min(reach, common_length(other.tokens, sequence.tokens)) if reach > 0 else 0
