"""Logits processors, which change the logits before a token is chosen. A new one is a function and a line here.

The tokens that may not end the answer yet are forbidden first. The rest has llama.cpp's default order: bias, repeat
penalty, then OpenAI's presence and frequency penalties.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.sampling.truncation import Logits

LogitsProcessor = Callable[[Logits], Logits]
"""Maps logits [vocab] float32 to logits [vocab] float32: the same array if nothing changes, otherwise a copy."""


class History:
    """The tokens of one request that processors read."""

    def __init__(self, prompt: Sequence[int], *, last: int) -> None:
        """`last`: maximum number of tokens in `recent`."""
        self.recent: deque[int] = deque(prompt, maxlen=last)
        """The latest tokens, including those of the prompt."""
        self.length = 0
        """Number of tokens in the answer."""
        self.counts: Counter[int] = Counter()
        """Number of occurrences of each token in the answer; the prompt does not count."""

    def append(self, token: int) -> None:
        """Record a chosen token."""
        self.length += 1
        self.recent.append(token)
        self.counts[token] += 1


def make_logits_processors(
    params: SamplingParams, history: History, *, end_ids: Collection[int] = ()
) -> list[LogitsProcessor]:
    """Return the processors that `params` require, in the order of application. `end_ids`: the tokens that end a
    turn.
    """
    processors: list[LogitsProcessor] = []
    ends, stops = sorted(end_ids), sorted({*end_ids, *params.stop_token_ids})
    if params.min_tokens:
        processors.append(lambda logits: without(logits, stops) if history.length < params.min_tokens else logits)
    if params.ignore_eos:
        processors.append(lambda logits: without(logits, ends))
    if params.logit_bias:
        processors.append(logit_bias(params.logit_bias))
    if params.repeat_penalty != 1.0:
        processors.append(lambda logits: repetition(logits, history.recent, params.repeat_penalty))
    if params.presence_penalty or params.frequency_penalty:
        penalties = {"presence": params.presence_penalty, "frequency": params.frequency_penalty}
        processors.append(lambda logits: presence_frequency(logits, history.counts, **penalties))
    return processors


def without(logits: Logits, tokens: Sequence[int]) -> Logits:
    """Return logits that allow none of `tokens`; unchanged where nothing else is allowed, as a complete JSON value's
    constraint allows only the end."""
    allowed = logits.copy()
    allowed[np.asarray(tokens, np.intp)] = -np.inf
    return allowed if np.isfinite(allowed.max()) else logits


def logit_bias(biases: Sequence[tuple[int, float]]) -> LogitsProcessor:
    """Return a processor that adds a bias to some tokens' logits."""
    tokens = np.fromiter((token for token, _ in biases), np.intp, len(biases))
    added = np.array([bias for _, bias in biases], np.float32)

    def process(logits: Logits) -> Logits:
        logits = logits.copy()
        logits[tokens] += added
        return logits

    return process


def repetition(logits: Logits, recent: Sequence[int] | deque[int], penalty: float) -> Logits:
    """Apply CTRL's repeat penalty as llama.cpp does.

    Each distinct recent token is penalized once: positive logits are divided by `penalty`, others multiplied.
    """
    if not recent:
        return logits
    seen = np.unique(np.fromiter(recent, np.intp, len(recent)))
    logits = logits.copy()
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)
    return logits


def presence_frequency(logits: Logits, counts: Mapping[int, int], *, presence: float, frequency: float) -> Logits:
    """Apply OpenAI's two penalties: logit - presence - count * frequency, for each token of the answer so far."""
    if not counts:
        return logits
    seen = np.fromiter(counts, np.intp, len(counts))
    times = np.fromiter(counts.values(), np.float32, len(counts))
    logits = logits.copy()
    logits[seen] -= np.float32(presence) + times * np.float32(frequency)
    return logits
