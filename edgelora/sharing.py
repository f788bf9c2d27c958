"""Whether a newcomer waits for an older one that is computing the beginning of its prompt. Pure; the scheduler acts.

Waiting costs the newcomer nothing: prompts are computed oldest first, so its own rows would come after, or take room in
steps that grow with them. What the older one has computed is then copied, which costs nothing either. It never starves:
it waits for older ones only, keeps its place, and for HOLD_PLANS plans at most.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgelora.sequence import Sequence
from edgelora.states import State
from edgelora.warm import common_length, parting

WORTH = 16
"""Tokens that must be saved: fewer cost less than the turn they take."""
HOLD_PLANS = 64
"""A prefix of 1,000 tokens beside others' answers, at 16 a step."""


def waits(sequence: Sequence, ahead: Iterable[Sequence], *, have: int) -> bool:
    """`ahead`: who runs, or starts before it. `have`: tokens it need not compute if it starts now."""
    if sequence.held >= HOLD_PLANS:
        return False
    return any(_common(sequence, older) - max(older.computed, have) >= WORTH for older in ahead)


def _common(sequence: Sequence, older: Sequence) -> int:
    """How much of the older one's prompt it could have, once that is computed."""
    if older.state is State.DECODE or older.arrival > sequence.arrival:
        return 0
    reach = min(len(sequence.tokens) - 1, parting(older.key, sequence.key))
    return min(reach, common_length(older.tokens, sequence.tokens)) if reach > 0 else 0
