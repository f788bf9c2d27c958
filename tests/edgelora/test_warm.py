"""What is warm, what matches it, and what is given up first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.warm import WORTH_TOKENS, Match, WarmSequences, common_length

ONE, TWO = ("v1", "a.gguf"), ("v2", "a.gguf")
LONG = list(range(100))


def warm(*held: tuple[int, tuple[str, str] | None, list[int]]) -> WarmSequences:
    sequences = WarmSequences()
    for sequence_id, key, tokens in held:
        sequences.keep(sequence_id, key, tokens)
    sequences.check_integrity()
    return sequences


@settings(deadline=None)
@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_length(shared: list[int], one: list[int], other: list[int]) -> None:
    """The slices give what counting token by token gives, either way round."""
    one, other = shared + one, shared + other
    counted = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    assert common_length(one, other) == common_length(other, one) == counted >= len(shared)


def test_the_longest_match() -> None:
    """Of one adapter version: the most shared tokens; of equals the least recently used."""
    sequences = warm((0, ONE, [*LONG[:50], 7]), (1, ONE, [*LONG[:60], 7]), (2, ONE, [*LONG[:60], 8]), (3, TWO, LONG))
    assert sequences.match(ONE, LONG) == Match(1, 60)
    assert sequences.match(ONE, LONG, without={1}) == Match(2, 60)
    assert sequences.match(ONE, LONG, without={1, 2}) == Match(0, 50)


def test_nothing_crosses_versions() -> None:
    """Another version of a name, or the base alone, is another KV."""
    sequences = warm((0, ONE, LONG))
    assert sequences.match(TWO, LONG) is None and sequences.match(None, LONG) is None
    assert warm((0, None, LONG)).match(ONE, LONG) is None


@pytest.mark.parametrize("more", [0, 1, 50])
def test_the_last_token_is_always_computed(more: int) -> None:
    """Its logits are wanted: a prompt that is wholly warm is computed from its last token on."""
    sequences = warm((0, None, LONG + [5] * more))
    assert sequences.match(None, LONG) == Match(0, 99)
    assert sequences.match(None, LONG[:1]) is None


def test_a_few_shared_tokens_do_not_cost_a_conversation() -> None:
    """What all prompts of a template share is not worth a long sequence; a system prompt, or half of all it has, is."""
    sequences = warm((0, None, LONG), (1, None, [50, 51, 52]))
    assert sequences.match(None, [*LONG[: WORTH_TOKENS - 1], 999, 999]) is None
    assert sequences.match(None, [*LONG[:WORTH_TOKENS], 999, 999]) == Match(0, WORTH_TOKENS)
    assert sequences.match(None, [50, 51, 999]) == Match(1, 2)
    assert sequences.match(None, [50, 999, 999]) is None


def test_the_order_is_that_of_use() -> None:
    """A sequence that was taken over comes back as the most recent."""
    sequences = warm((0, None, [1]), (1, None, [2]), (2, None, [3]))
    sequences.remove(0)
    sequences.keep(0, None, [1, 4])
    assert [entry.id for entry in sequences] == [1, 2, 0]
    assert (sequences.cells, len(sequences), sequences.ids) == (4, 3, {0, 1, 2})


@pytest.mark.parametrize(
    "wrong", [lambda s: s.keep(0, None, [1]), lambda s: s.keep(1, None, []), lambda s: s.remove(9)]
)
def test_what_cannot_be_is_refused(wrong: Callable[[WarmSequences], None]) -> None:
    """An id twice, nothing at all, an id that is not there: bugs, and the cells still add up."""
    sequences = warm((0, None, [1]))
    with pytest.raises((RuntimeError, KeyError)):
        wrong(sequences)
    sequences.check_integrity()


def test_integrity_is_really_checked() -> None:
    """A wrong count is noticed."""
    sequences = warm((0, None, [1]))
    sequences.cells += 1
    with pytest.raises(RuntimeError):
        sequences.check_integrity()
