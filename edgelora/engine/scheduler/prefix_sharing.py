"""The decision whether a new request waits for one that is computing the beginning of its prompt. Pure; the
scheduler acts.

Waiting costs the newcomer nothing: the other one is ahead, and has the room in each step that the newcomer's rows would
take. What was computed is then copied, which costs nothing either. It never starves: it waits only for those that run
or start before it, keeps its place in the line and in the batch, and waits for HOLD_PLANS plans at most.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgelora.core.kv import common_length, parting
from edgelora.engine.scheduler.sequence import Sequence
from edgelora.engine.scheduler.states import State

WORTH = 16
"""Tokens that must be saved: fewer cost less than the turn they take."""
HOLD_PLANS = 64
"""A prefix of 1,000 tokens beside others' answers, at 16 a step."""


def waits(sequence: Sequence, ahead: Iterable[Sequence], *, have: int) -> bool:
    """`ahead`: who runs, or starts in this plan before it. `have`: tokens it need not compute if it starts now."""
    if sequence.held >= HOLD_PLANS:
        return False
    return any(_common(sequence, other) - max(other.computed, have) >= WORTH for other in ahead)


def _common(sequence: Sequence, other: Sequence) -> int:
    """Return how much of the other's prompt it could have, once that is computed."""
    if other.state is State.DECODE:
        return 0
    reach = min(len(sequence.tokens) - 1, parting(other.key, sequence.key))
    return min(reach, common_length(other.tokens, sequence.tokens)) if reach > 0 else 0
