"""The start of an aLoRA: the first token of its invocation's last occurrence in the prompt.

PEFT's rule (peft.tuners.lora.variants, calculate_alora_offsets): the prompt is searched once, and the adapter applies
to the invocation's own tokens and to every token after them, including the answer. Without an occurrence it never
applies.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from edgelora.core.request import AdapterUse

_log = logging.getLogger(__name__)


def activated(uses: Iterable[AdapterUse], prompt: Sequence[int]) -> tuple[AdapterUse, ...]:
    """Return `uses` with each aLoRA's start in `prompt`; one that is not invoked is left out and logged."""
    placed = []
    for use in uses:
        start = last_occurrence(use.ref.invocation, prompt)
        if start is None:
            _log.warning("%s is an aLoRA whose invocation is not in the prompt: it does not act", use.ref)
        else:
            placed.append(replace(use, start=max(start, use.start)))
    return tuple(placed)


def last_occurrence(invocation: Sequence[int], prompt: Sequence[int]) -> int | None:
    """The position where `invocation` last begins in `prompt`; 0 for an empty one, None where it does not occur."""
    if not invocation:
        return 0
    invocation_tokens, length = list(invocation), len(invocation)
    starts = (at for at in range(len(prompt) - length, -1, -1) if prompt[at] == invocation_tokens[0])
    return next((at for at in starts if list(prompt[at : at + length]) == invocation_tokens), None)
