"""Cutting a text at special tokens: as llama.cpp's own loop does, written out, wherever that is possible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelora.text.special_tokens import SpecialTokens

TOKENS = {b"<|a|>": 1, b"<|ab|>": 2, b"<|b|>": 3, b"[X]": 4, b"@": 5}


def partition(text: bytes, tokens: dict[bytes, int]) -> list[int | bytes]:
    """`tokenizer_st_partition`: the longest token in every piece of text first, then the next."""
    parts: list[int | bytes] = [text]
    for token in sorted(tokens, key=len, reverse=True):
        cut: list[int | bytes] = []
        for part in parts:
            if isinstance(part, int):
                cut.append(part)
                continue
            before, *after = part.split(token)
            cut.append(before)
            for piece in after:
                cut += [tokens[token], piece]
        parts = cut
    return [part for part in parts if part != b""]


@given(st.lists(st.sampled_from([*TOKENS, b"<|", b"|>", b"a", b"b", b"[", b"X]", b" "]), max_size=30))
def test_a_cut_is_llama_cpps(parts: list[bytes]) -> None:
    """Texts of whole tokens, halves of tokens and other letters."""
    cutter = SpecialTokens.of((token, text) for text, token in TOKENS.items())
    assert cutter is not None
    text = b"".join(parts)
    assert list(cutter.cut(text)) == partition(text, TOKENS)


@given(st.sets(st.binary(min_size=1, max_size=4).filter(lambda text: set(text) <= set(b"ab<>")), max_size=5), st.data())
def test_any_tokens_are_cut_rightly_or_not_at_all(texts: set[bytes], data: st.DataObject) -> None:
    """Where occurrences may overlap the order of llama.cpp's loop matters, and the cut is left to it."""
    tokens = {text: number for number, text in enumerate(sorted(texts))}
    cutter = SpecialTokens.of((token, text) for text, token in tokens.items())
    text = b"".join(data.draw(st.lists(st.sampled_from([b"a", b"b", b"<", b">", *tokens]), max_size=20)))
    if cutter is not None:
        assert list(cutter.cut(text)) == partition(text, tokens)


@pytest.mark.parametrize(
    "texts",
    [
        (b"<|a|>", b"|><|"),
        (b"aa",),
        (b"<a>", b"a"),
        (b"<a", b"<a>"),
        (b"",),
        (b"x", b"x"),
    ],
)
def test_tokens_that_may_overlap(texts: tuple[bytes, ...]) -> None:
    """One ends as another begins, or as itself; one lies in another; two are spelled alike; one is empty."""
    assert SpecialTokens.of(enumerate(texts)) is None


def test_no_tokens() -> None:
    """The whole text in one piece, and nothing for an empty one."""
    cutter = SpecialTokens.of(())
    assert cutter is not None
    assert list(cutter.cut(b"text")) == [b"text"] and list(cutter.cut(b"")) == []
