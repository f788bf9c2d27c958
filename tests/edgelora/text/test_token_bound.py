"""The lower bound on a text's tokens: never above what any tokenisation gives."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.text import token_bound as module
from edgelora.text.token_bound import KINDS, TokenBound

BYTES = [bytes([byte]) for byte in range(256)]
WORDS = ["the", " whole", "   ", "1234", "===", "日本", "é", "a1-", "\n\n", " x", "\U0001f600"]


def made(*more: bytes) -> TokenBound:
    bound = TokenBound.of([*BYTES, b"", *more])
    assert bound is not None
    return bound


def test_kinds_are_all_bytes() -> None:
    """Every byte is of exactly one kind."""
    assert sorted(b"".join(KINDS)) == list(range(256))


def test_the_most_of_each_kind() -> None:
    """What one token has of letters, digits, spaces, signs and the rest, and its length; an empty piece has nothing."""
    found = made(b" whole", b"12", b"\n\n\n", b"a-b-c-", "é".encode())
    assert (found.longest, found.most) == (6, (5, 2, 3, 3, 2))
    assert (made().longest, made().most) == (1, (1, 1, 1, 1, 1))


def test_the_largest_bound_counts() -> None:
    """Letters come ten to a token and digits one by one: a text of digits has as many tokens as digits."""
    found = made(b"abcdefghij")
    assert found.fewest("x" * 100) == 10
    assert found.fewest("7" * 100) == 100
    assert found.fewest("x" * 100 + "7" * 50) == 50
    assert found.fewest("") == 0


def test_only_the_beginning_is_counted_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text costs no more than its beginning; its length counts all the same."""
    monkeypatch.setattr(module, "LOOKED_AT", 10)
    found = made(b"abcdefghij")
    assert found.fewest("7" * 100) == 10
    assert found.fewest("7" * 1000) == 100


def test_a_vocabulary_that_loses_bytes() -> None:
    """Where a byte has no token of its own nothing is said; bytes that UTF-8 never has are not missed."""
    assert TokenBound.of([piece for piece in BYTES if piece != b"q"]) is None
    assert TokenBound.of([piece for piece in BYTES if piece not in (b"\xc0", b"\xff")]) is not None


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(WORDS), max_size=40), st.sets(st.sampled_from(WORDS), max_size=6), st.integers(0, 9))
def test_no_tokenisation_has_fewer(parts: list[str], merged: set[str], seed: int) -> None:
    """However a text is cut into a vocabulary's pieces, there are at least as many as was said."""
    text = "".join(parts)
    pieces = {word.encode() for word in merged}
    fewest = made(*pieces).fewest(text)
    rng, data, count = random.Random(seed), text.encode(), 0
    while data:
        fitting = [piece for piece in pieces if data.startswith(piece)]
        data = data[len(max(fitting, key=len)) if fitting and rng.random() < 0.9 else 1 :]
        count += 1
    assert fewest <= count
