"""What is drafted: the longest match of a sequence's end with what came before in it, and what followed there."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.engine.speculative.acceptance import Acceptance
from edgelora.engine.speculative.prompt_lookup import LONGEST, LOOKS, PromptLookup

texts = st.lists(st.integers(0, 3), max_size=60)


def prompt_lookup(tokens: list[int]) -> PromptLookup:
    made = PromptLookup(Acceptance())
    made.read(tokens)
    return made


def slow_match(tokens: list[int]) -> tuple[int, int] | None:
    """(position of what followed, tokens in common) by search: the longest of the latest LOOKS, or the latest."""
    ends = [end for end in range(len(tokens) - 1, 1, -1) if tokens[end - 2 : end] == tokens[-2:]][:LOOKS]
    common = {
        end: next(n for n in range(min(LONGEST, end), 1, -1) if tokens[end - n : end] == tokens[len(tokens) - n :])
        for end in ends
    }
    return max(common.items(), key=lambda pair: (pair[1], pair[0]), default=None)


@settings(deadline=None, max_examples=200)
@given(tokens=texts)
def test_the_index_finds_what_a_search_finds(tokens: list[int]) -> None:
    """The same match, or none, and what is drafted is what followed it, over and over where that is the end."""
    made, expected = prompt_lookup(tokens), slow_match(tokens)
    assert (None if made.match is None else (made.match.follows, made.match.length)) == expected
    if expected is None:
        assert made.draft(5) == () and made.chances(5) == []
        return
    whole = list(tokens)
    for token in made.draft(9):
        assert token == whole[expected[0] + len(whole) - len(tokens)]
        whole.append(token)
    assert len(whole) == len(tokens) + 9


@settings(deadline=None, max_examples=60)
@given(tokens=texts, cuts=st.lists(st.integers(0, 60), max_size=4), answer=texts)
def test_pieces_and_single_tokens_are_the_same_text(tokens: list[int], cuts: list[int], answer: list[int]) -> None:
    """However the prompt is cut, and whether a token is the prompt's or the answer's, the match is the same."""
    made, start = PromptLookup(Acceptance()), 0
    for cut in sorted({min(cut, len(tokens)) for cut in cuts} | {len(tokens)}):
        made.read(tokens[start:cut])
        start = cut
    for token in answer:
        made.follow(token)
    assert len(made) == len(tokens) + len(answer)
    assert made.match == prompt_lookup([*tokens, *answer]).match


def test_copying_makes_the_next_token_likelier() -> None:
    """Each token that follows as before is a longer match and raises its chance; one that does not, ends it."""
    made = prompt_lookup([*range(20), 0, 1])
    chances = [made.chances(1)[0]]
    for token in range(2, 12):
        assert made.draft(3) == (token, token + 1, token + 2)
        made.follow(token)
        chances.append(made.chances(1)[0])
    assert chances[-1] > 0.8 > 0.3 > chances[0]
    made.follow(99)
    assert made.match is None and made.draft(3) == ()


def test_a_longer_draft_is_never_likelier() -> None:
    """Chances are of all tokens up to there: they fall, or stay, and are those of matches that grow."""
    everyone = Acceptance()
    for _ in range(50):
        everyone.note(2, False)
        everyone.note(9, True)
    made = PromptLookup(Acceptance(everyone))
    made.read([1, 2, 3, 1, 2])
    chances = made.chances(9)
    assert len(chances) == 9 and chances == sorted(chances, reverse=True)
    assert chances[0] < 0.1 and chances[8] > 0.9 * chances[7]


def test_nothing_is_seen_without_a_match() -> None:
    """A token that nothing was drafted for tells nothing about drafts."""
    made = prompt_lookup([1, 2, 3])
    before = made.acceptance.chance(2)
    for token in (4, 5, 6):
        made.follow(token)
    assert made.acceptance.chance(2) == before
