"""From logits to the next token, in numpy. Pure: the only state is one request's recent tokens and its generator.

Order: the constraint, before everything else; then as llama.cpp's default chain has it (common/sampling): bias, the
penalties, top_k, top_p, min_p, temperature. So top_p and min_p look at the probabilities before the temperature, and a
hot temperature does not widen what they keep.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelora.core import SamplingParams
from edgelora.errors import BackendError, UsageError

Logits = NDArray[np.float32]
Ids = NDArray[np.intp]

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_BIASES = 1024
MAX_BIAS = 100.0
MAX_LOGPROBS = 20

# top_p looks for its tokens among this many of the likeliest first, and among eight times as many each time it must.
_FIRST_LOOK = 64


class Guide(Protocol):
    """Holds one answer to its constraint, token by token."""

    def allowed(self) -> NDArray[np.bool_]:
        """[vocab]: the tokens that may come next, at least one. Raises UsageError(code unsupported_schema)."""
        ...

    def accept(self, token: int) -> None:
        """It came. Raises as `allowed` does."""
        ...

    @property
    def complete(self) -> bool:
        """Nothing may follow."""
        ...


def validate(params: SamplingParams) -> None:
    """Raises UsageError naming the field that is out of range."""
    _check_number("temperature", params.temperature, low=0.0)
    _check_number("top_p", params.top_p, low=0.0, high=1.0)
    _check_number("min_p", params.min_p, low=0.0, high=1.0)
    _check_number("repeat_penalty", params.repeat_penalty, low=0.01, high=100.0)
    _check_number("presence_penalty", params.presence_penalty, low=-2.0, high=2.0)
    _check_number("frequency_penalty", params.frequency_penalty, low=-2.0, high=2.0)
    _check_bias(params.logit_bias)
    _check_count("top_k", params.top_k, low=0)
    _check_count("repeat_last_n", params.repeat_last_n, low=0)
    if params.logprobs is not None:
        _check_count("logprobs", params.logprobs, low=0, high=MAX_LOGPROBS)
    if params.max_tokens is not None:
        _check_count("max_tokens", params.max_tokens, low=1)
    if params.seed is not None:
        _check_count("seed", params.seed, low=-(1 << 63), high=(1 << 64) - 1)
    _check_stops(params.stop)


class Sampler:
    """Chooses one request's tokens. The same seed, prompt and logits give the same tokens."""

    def __init__(self, params: SamplingParams, prompt_tokens: Sequence[int], *, guide: Guide | None = None) -> None:
        """`guide`: what holds the answer to `params.constraint`. Raises UsageError as `validate` does."""
        validate(params)
        self._params = params
        self._guide = guide
        self._bias = np.fromiter((token for token, _ in params.logit_bias), np.intp, len(params.logit_bias))
        self._biases = np.array([bias for _, bias in params.logit_bias], np.float32)
        self._counts: Counter[int] = Counter()
        """How often each token is in the answer."""
        self._recent: deque[int] = deque(prompt_tokens, maxlen=params.repeat_last_n)
        # Seeds are 64 bits wide for numpy; a negative one is the same bits.
        seed = None if params.seed is None else params.seed % (1 << 64)
        self._generator = np.random.Generator(np.random.PCG64(seed))

    @property
    def complete(self) -> bool:
        """Whether the constraint lets nothing follow."""
        return self._guide is not None and self._guide.complete

    def choose(self, logits: Logits) -> int:
        """The next token from `logits` [vocab] float32, which is not changed. Equal logits: the lowest id first.

        -inf forbids a token. Raises BackendError(code bad_logits) for NaN, +inf, or where everything is forbidden, and
        as the guide does.
        """
        _check_finite(logits)
        if self._guide is not None:
            logits = np.where(self._guide.allowed(), logits, np.float32(-np.inf))
            _check_finite(logits)
        logits = self._weighed(logits)
        token = int(logits.argmax()) if self._params.temperature == 0 else self._draw(logits)
        self._recent.append(token)
        self._counts[token] += 1
        if self._guide is not None:
            self._guide.accept(token)
        return token

    def _weighed(self, logits: Logits) -> Logits:
        params = self._params
        if len(self._bias):
            logits = logits.copy()
            logits[self._bias] += self._biases
        logits = penalize(logits, self._recent, params.repeat_penalty)
        return discourage(logits, self._counts, presence=params.presence_penalty, frequency=params.frequency_penalty)

    def _draw(self, logits: Logits) -> int:
        kept = candidates(logits, self._params)
        scores = (logits if kept is None else logits[kept]).astype(np.float64)
        # Below this the likeliest token is certain, and a smaller divisor would overflow.
        temperature = max(self._params.temperature, 1e-6)
        weights = np.exp((scores - scores.max()) / temperature)
        steps = weights.cumsum()
        place = int(np.searchsorted(steps, self._generator.random() * steps[-1], side="right"))
        # Rounding may give the very end of the last step, where nothing follows.
        place = min(place, len(steps) - 1)
        return place if kept is None else int(kept[place])


def penalize(logits: Logits, recent: Sequence[int] | deque[int], penalty: float) -> Logits:
    """CTRL's repeat penalty as llama.cpp does it: once for each token seen, positive logits divided, others multiplied.

    Returns `logits` itself where there is nothing to do, a copy otherwise.
    """
    if penalty == 1.0 or not recent:
        return logits
    seen = np.unique(np.fromiter(recent, np.intp, len(recent)))
    logits = logits.copy()
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)
    return logits


def discourage(logits: Logits, counts: Mapping[int, int], *, presence: float, frequency: float) -> Logits:
    """OpenAI's two penalties: logit - presence - count * frequency, for each token of the answer so far.

    Returns `logits` itself where there is nothing to do, a copy otherwise.
    """
    if not counts or presence == frequency == 0:
        return logits
    seen = np.fromiter(counts, np.intp, len(counts))
    times = np.fromiter(counts.values(), np.float32, len(counts))
    logits = logits.copy()
    logits[seen] -= np.float32(presence) + times * np.float32(frequency)
    return logits


def candidates(logits: Logits, params: SamplingParams) -> Ids | None:
    """Ids that top_k, top_p and min_p keep, likeliest first (by id where equal). None: all of them, in order of id."""
    size, all_tokens = len(logits), not 0 < params.top_k < len(logits)
    if all_tokens and params.top_p >= 1 and params.min_p <= 0:
        return None
    if all_tokens and params.top_p >= 1:
        kept = np.arange(size)
    elif params.top_p >= 1:
        kept = top(logits, params.top_k)
    else:
        kept = _nucleus(logits, params.top_p, size if all_tokens else params.top_k)
    return _at_least(logits, kept, params.min_p) if params.min_p > 0 else kept


def top(logits: Logits, count: int) -> Ids:
    """The `count` ids of the largest logits, largest first, by id where equal; without sorting the rest."""
    if count < len(logits):
        edge = np.partition(logits, len(logits) - count)[len(logits) - count]
        above = np.flatnonzero(logits > edge)
        level = np.flatnonzero(logits == edge)[: count - len(above)]
        ids = np.concatenate((above, level))
    else:
        ids = np.arange(len(logits))
    return ids[np.lexsort((ids, -logits[ids]))]


def _nucleus(logits: Logits, share: float, count: int) -> Ids:
    """The fewest of the `count` likeliest ids that together have at least `share` of those ids' probability."""
    look = min(count, _FIRST_LOOK)
    pool = logits if count == len(logits) else logits[top(logits, count)]
    total = np.exp(pool.astype(np.float64) - logits.max()).sum()
    while True:
        ids = top(logits, look)
        mass = np.exp(logits[ids].astype(np.float64) - logits.max()).cumsum()
        enough = int(np.searchsorted(mass, share * total)) + 1
        if enough <= look or look == count:
            return ids[:enough]
        look = min(count, 8 * look)


def _at_least(logits: Logits, ids: Ids, min_p: float) -> Ids:
    """Of `ids`, those with at least `min_p` times the likeliest one's probability."""
    likely: NDArray[np.bool_] = logits[ids] >= logits.max() + math.log(min_p)
    return ids[likely]


def _check_finite(logits: Logits) -> None:
    if not np.isfinite(logits.max()):
        what = "The model's output is not a number: the base or the adapter is damaged."
        raise BackendError("bad_logits", what)


def _check_bias(biases: tuple[tuple[int, float], ...]) -> None:
    if len(biases) > MAX_BIASES:
        raise _out_of_range("logit_bias", f"{len(biases)} tokens", f"at most {MAX_BIASES} tokens")
    if len({token for token, _ in biases}) < len(biases):
        raise _out_of_range("logit_bias", "given twice for a token", "given once for each")
    for token, bias in biases:
        _check_count("logit_bias", token, low=0)
        _check_number("logit_bias", bias, low=-MAX_BIAS, high=MAX_BIAS)


def _check_number(name: str, value: float, *, low: float, high: float = math.inf) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        wanted = f"a number of at least {low:g}" if math.isinf(high) else f"a number from {low:g} to {high:g}"
        raise _out_of_range(name, value, wanted)


def _check_count(name: str, value: int, *, low: int, high: int = (1 << 31) - 1) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise _out_of_range(name, value, f"a whole number from {low} to {high}")


def _check_stops(stop: tuple[str, ...]) -> None:
    if len(stop) > MAX_STOPS:
        raise _out_of_range("stop", f"{len(stop)} strings", f"at most {MAX_STOPS} strings")
    if any(not 0 < len(text) <= MAX_STOP_CHARS for text in stop):
        raise UsageError(
            "invalid_value",
            "stop has a string that is empty or too long.",
            f"Give strings of 1 to {MAX_STOP_CHARS} characters.",
            param="stop",
        )


def _out_of_range(name: str, value: object, wanted: str) -> UsageError:
    return UsageError("invalid_value", f"{name} is {value}.", f"It must be {wanted}.", param=name)
