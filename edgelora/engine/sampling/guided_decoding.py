"""Guided decoding: constrains an answer token by token through llguidance.

llama.cpp's own grammars are not used: they fail open, or end the process, for schemas that any client may send. Owns
the description of a base's vocabulary, which is made once (a third of a second for 128,256 tokens) at the first
constraint. Compiling releases the GIL and belongs on a request's thread; the engine computes masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edgelora.core.errors import UsageError
from edgelora.core.sampling_params import Constraint
from edgelora.core.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_KEPT: Final = 2
"""Number of vocabulary descriptions kept: a process has one base, and a second one if it is replaced."""
_COMPILED: Final = 16
"""Number of compiled constraints kept."""
_ROW_ITEMS: Final = 5000
"""Maximum choices at one place of an answer, as llguidance counts them: two per optional property of an object."""
_LEXER_STATES: Final = 50_000
"""Maximum states of one answer's lexer, at one to two kB each."""
_SAID: Final = 300
"""Maximum characters of an llguidance message that are passed on."""


class GuidedDecoder:
    """Implements `sampler.TokenConstraint` for one answer. Not thread-safe."""

    def __init__(self, constraint: Constraint, tokenizer: Tokenizer) -> None:
        """Raises UsageError(code unsupported_schema) for a grammar that is unsupported or allows no answer."""
        self._size = tokenizer.size
        self._matcher = _compiled(constraint, tokenizer).deep_copy()

    @property
    def complete(self) -> bool:
        return self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, bitorder="little")[: self._size].view(np.bool_)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        _check(self._matcher)


def guided_decoder(constraint: Constraint | None, tokenizer: Tokenizer) -> GuidedDecoder | None:
    """Return the decoder that holds one answer to `constraint`, or None without one. Raises as `GuidedDecoder` does."""
    return None if constraint is None else GuidedDecoder(constraint, tokenizer)


@lru_cache(maxsize=_COMPILED)
def _compiled(constraint: Constraint, tokenizer: Tokenizer) -> LLMatcher:
    """Return a matcher before its first token, to be copied for each choice and each repeated request."""
    from llguidance import LLMatcher

    matcher = LLMatcher(_describe(tokenizer), constraint.grammar, log_level=0, limits=_limits())
    _check(matcher)
    matcher.compute_bitmask()  # Some find only here that nothing can be written.
    _check(matcher)
    return matcher


def _check(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise _unsupported(matcher.get_error())


class _GuidanceTokenizer:
    """A vocabulary in the interface of llguidance. Control tokens have no bytes here, so they are never allowed."""

    special_token_ids: Sequence[int] = ()
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.piece(token) for token in range(tokenizer.size)]
        self.eos_token_id = min(tokenizer.end_ids)

    def __call__(self, text: str) -> list[int]:
        """Return the base's own tokens of a text; llguidance uses them where only one text can follow."""
        return self._tokenizer.tokenize(text, special=False, bos=False)


@lru_cache(maxsize=_KEPT)
def _describe(tokenizer: Tokenizer) -> LLTokenizer:
    """Return the tokenizer in llguidance's form.

    Two concurrent first calls may both build it, which only costs time.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    if not tokenizer.end_ids:
        raise _unsupported("the base has no token that ends an answer")
    wrapper = TokenizerWrapper(_GuidanceTokenizer(tokenizer))
    return LLTokenizer(wrapper, n_vocab=tokenizer.size, eos_token=sorted(tokenizer.end_ids))


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(max_items_in_row=_ROW_ITEMS, max_lexer_states=_LEXER_STATES, verbose_errors=False)


def _unsupported(said: str) -> UsageError:
    words = " ".join(said.replace("<non-verbose/>", "").split())
    why = words if len(words) <= _SAID else words[:_SAID] + " ..."
    return UsageError(
        "unsupported_schema",
        f"The answer cannot be held to this schema: {why.rstrip('.')}.",
        "Write the schema without what is named here, or simpler.",
    )
