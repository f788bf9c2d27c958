"""Tokenizer."""

from __future__ import annotations

from typing import Protocol


class Tokenizer(Protocol):
    """Text to ids and back. Thread-safe, immutable and hashable: what is made of it once is kept by it."""

    def __hash__(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a turn or a text (EOS, EOT, EOM)."""
        ...

    @property
    def bos_text(self) -> str:
        """The beginning-of-text token as the template writes it; empty where there is none."""
        ...

    @property
    def adds_bos(self) -> bool:
        """True if a plain text gets BOS in front (`add_bos_token`). A chat never does: its template writes BOS."""
        ...

    @property
    def eos_text(self) -> str: ...

    @property
    def chat_template(self) -> str | None:
        """Jinja source from the base, or None."""
        ...

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        """Ids of `text`. `special`: whether written-out control tokens become those tokens. `bos`: prepend BOS."""
        ...

    def spells_control(self, text: str) -> bool:
        """Return whether `text` spells a control token, so that `special` makes a difference to `tokenize`."""
        ...

    def fewest_tokens(self, text: str) -> int:
        """Return a lower bound for the number of tokens in `text`, however it is tokenised; 0 where there is none. For
        a long text this costs far less than tokenising it."""
        ...

    def piece(self, token: int) -> bytes:
        """Return the token's bytes in text; b"" for control tokens. May be part of a UTF-8 character."""
        ...
