"""A fake whose answers repeat what came before more often than not: drafts are right at times, and wrong at times."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgelora.backends.base import Applied
from tests.support.fake_backend.backend import FakeBackend


class Repeating(FakeBackend):
    """Three times in four a token is what followed the last two before; else it is one of three letters, or the end."""

    def next_token(self, adapters: Sequence[Applied], tokens: Sequence[int]) -> int:
        token = super().next_token(adapters, tokens)
        if token in self.tokenizer.end_ids:
            return token
        end, tail = len(tokens), list(tokens[-2:])
        before = next((n for n in range(end - 1, 1, -1) if list(tokens[n - 2 : n]) == tail), None)
        if before is not None and hashlib.blake2b(repr(list(tokens)).encode(), digest_size=1).digest()[0] % 4:
            return tokens[before]
        return ord("a") + token % 3
