"""The contents of each sequence and slot of a backend, and the refusal of invalid steps. Uses no backend library.

A backend checks here before it changes anything, so a step that its library would abort on or miscompute never runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgelora.backends.base import Capabilities, Chunk
from edgelora.core.errors import BackendError


class Ledger:
    """Attached slots, and tokens in each sequence's KV, within `capabilities`.

    The checks raise BackendError for an invalid call and change nothing.
    """

    def __init__(self, capabilities: Capabilities, *, vocab_size: int) -> None:
        """`vocab_size`: number of tokens in the vocabulary."""
        self._able = capabilities
        self._vocab_size = vocab_size
        self._attached: set[int] = set()
        self._lengths: dict[int, int | None] = {}
        """Number of tokens by sequence; None if a failed step left it undefined."""

    @property
    def attached(self) -> tuple[int, ...]:
        return tuple(self._attached)

    @property
    def cells(self) -> int:
        """Number of KV tokens over all sequences whose contents are defined."""
        return sum(length or 0 for length in self._lengths.values())

    def length(self, sequence: int) -> int | None:
        """Return the number of tokens in a sequence; None if undefined."""
        return self._lengths.get(sequence, 0)

    def check_slot(self, slot: int) -> None:
        if not 0 <= slot < self._able.max_slots or slot in self._attached:
            raise BackendError("bad_slot", f"Slot {slot} is taken or not one of {self._able.max_slots}.")

    def attach(self, slot: int) -> None:
        self._attached.add(slot)

    def detach(self, slot: int) -> None:
        """Mark a slot as free. Does nothing if it is."""
        self._attached.discard(slot)

    def begin(self, chunks: Sequence[Chunk]) -> None:
        """Mark the chunks' sequences as undefined until `finish`. Checks nothing."""
        self._lengths.update(dict.fromkeys(chunk.sequence for chunk in chunks))

    def finish(self, chunks: Sequence[Chunk]) -> None:
        self._lengths.update({chunk.sequence: chunk.position + len(chunk.tokens) for chunk in chunks})

    def hold(self, sequence: int, length: int) -> None:
        """Set the number of tokens that a sequence holds; 0 for none."""
        self._lengths[sequence] = length
        if not length:
            del self._lengths[sequence]

    def check_step(self, chunks: Sequence[Chunk]) -> None:
        able = self._able
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        if not 0 < tokens <= able.max_step_tokens:
            raise BackendError("bad_step", f"A step of {tokens} tokens; 1 to {able.max_step_tokens} can be.")
        if len({chunk.sequence for chunk in chunks}) != len(chunks):
            raise BackendError("bad_step", "A sequence has two chunks in one step.")
        if (outputs := sum(chunk.logits for chunk in chunks)) > able.max_outputs:
            limit = able.max_outputs
            raise BackendError("bad_step", f"Logits after {outputs} tokens of one step; {limit} at most can be.")
        for chunk in chunks:
            self._check_chunk(chunk)

    def check_sequence(self, sequence: int) -> None:
        if not 0 <= sequence < self._able.max_sequences:
            raise BackendError("bad_sequence", f"Sequence {sequence} is not one of {self._able.max_sequences}.")

    def check_held(self, sequence: int, length: int) -> None:
        """Raises BackendError unless the sequence holds at least `length` tokens and `length` is positive."""
        self.check_sequence(sequence)
        held = self.length(sequence)
        if held is None or not 0 < length <= held:
            message = "undefined" if held is None else held
            raise BackendError("bad_length", f"Sequence {sequence} holds {message} tokens, not {length} to keep.")

    def check_empty(self, sequence: int, *, code: str) -> None:
        self.check_sequence(sequence)
        if self.length(sequence) != 0:
            raise BackendError(code, f"Sequence {sequence} holds tokens already.")

    def _check_chunk(self, chunk: Chunk) -> None:
        self.check_sequence(chunk.sequence)
        held, end = self.length(chunk.sequence), chunk.position + len(chunk.tokens)
        if not chunk.tokens or held != chunk.position or end > self._able.context_length:
            raise BackendError(
                "bad_chunk",
                f"Sequence {chunk.sequence} holds {'undefined' if held is None else held} tokens of"
                f" {self._able.context_length}; positions {chunk.position} to {end} do not follow.",
            )
        slots = [applied.slot for applied in chunk.adapters]
        for slot in slots:
            if slot not in self._attached or slots.count(slot) > 1:
                raise BackendError("bad_slot", f"Slot {slot} holds no adapter, or is named twice.")
        if not 0 <= chunk.logits <= len(chunk.tokens):
            raise BackendError("bad_chunk", f"Logits after {chunk.logits} of {len(chunk.tokens)} tokens.")
        if not all(0 <= token < self._vocab_size for token in chunk.tokens):
            raise BackendError("bad_token", f"A token of sequence {chunk.sequence} is not in the vocabulary.")
