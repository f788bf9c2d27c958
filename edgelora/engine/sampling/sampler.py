"""The choice of the next token from logits, in numpy. The only state is one request's tokens and its generator.

The order is the constraint, the logits processors, the temperature, top_k, top_p and min_p, as in Meta's reference
code, transformers (`_get_logits_processor`) and vLLM (`Sampler.sample`). So top_p and min_p look at the probabilities
after the temperature, which is what a base's recommended values are made for. llama.cpp's default chain applies the
temperature last.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelora.core.errors import BackendError
from edgelora.core.sampling_params import SamplingParams, validate
from edgelora.engine.sampling.logits_processors import History, make_logits_processors
from edgelora.engine.sampling.truncation import Logits, candidates


class TokenConstraint(Protocol):
    """Holds one answer to its constraint, token by token."""

    def allowed(self) -> NDArray[np.bool_]:
        """Return the mask [vocab] of allowed next tokens, at least one. Raises UsageError(code unsupported_schema)."""
        ...

    def accept(self, token: int) -> None:
        """Record the chosen token. Raises as `allowed` does."""
        ...

    @property
    def complete(self) -> bool:
        """True if no token may follow."""
        ...


class Sampler:
    """Chooses one request's tokens. The same seed, prompt and logits give the same tokens."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_tokens: Sequence[int],
        *,
        end_ids: Collection[int] = (),
        guided_decoder: TokenConstraint | None = None,
    ) -> None:
        """`end_ids`: the tokens that end a turn. `guided_decoder` enforces `params.constraint`.

        Raises UsageError as `validate` does.
        """
        validate(params)
        self._params = params
        self._guided_decoder = guided_decoder
        self._history = History(prompt_tokens, last=params.repeat_last_n)
        self._processors = make_logits_processors(params, self._history, end_ids=end_ids)
        # numpy takes seeds of 64 bits; a negative seed is reinterpreted as unsigned.
        seed = None if params.seed is None else params.seed % (1 << 64)
        self._generator = np.random.Generator(np.random.PCG64(seed))

    @property
    def may_stop(self) -> bool:
        """Whether the latest token may end the answer: it comes after the first `min_tokens`."""
        return self._history.length > self._params.min_tokens

    @property
    def complete(self) -> bool:
        """True if the constraint allows no further token."""
        return self._guided_decoder is not None and self._guided_decoder.complete

    def choose(self, logits: Logits) -> int:
        """Return the next token from `logits` [vocab] float32, which is not changed.

        Of equal logits the lowest id is first.

        -inf forbids a token. Raises BackendError(code bad_logits) for NaN, +inf, or if every token is forbidden, and
        as the guided decoder does.
        """
        _check_finite(logits)
        if self._guided_decoder is not None:
            logits = np.where(self._guided_decoder.allowed(), logits, np.float32(-np.inf))
            _check_finite(logits)
        for process in self._processors:
            logits = process(logits)
        token = int(logits.argmax()) if self._params.temperature == 0 else self._draw(logits)
        self._history.append(token)
        if self._guided_decoder is not None:
            self._guided_decoder.accept(token)
        return token

    def _draw(self, logits: Logits) -> int:
        scaled = scale(logits, self._params.temperature)
        kept = candidates(scaled, self._params)
        weights = np.exp((scaled if kept is None else scaled[kept]).astype(np.float64))
        steps = weights.cumsum()
        place = int(np.searchsorted(steps, self._generator.random() * steps[-1], side="right"))
        # Rounding may give the very end of the last step, where nothing follows.
        place = min(place, len(steps) - 1)
        return place if kept is None else int(kept[place])


def scale(logits: Logits, temperature: float) -> Logits:
    """Return the logits [vocab] divided by the temperature, float32, shifted so that the largest is 0."""
    # Below 1e-6 the likeliest token is certain, and a smaller divisor would overflow.
    with np.errstate(over="ignore"):  # A token that far behind the likeliest has no probability.
        scaled: Logits = (logits - logits.max()) / np.float32(max(temperature, 1e-6))
    return scaled


def _check_finite(logits: Logits) -> None:
    if not np.isfinite(logits.max()):
        message = "The model's output is not a number: the base or the adapter is damaged."
        raise BackendError("bad_logits", message)
