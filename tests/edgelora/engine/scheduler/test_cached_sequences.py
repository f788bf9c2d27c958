"""What is warm, what matches it, and what is given up first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.kv import BASE, Key, common_length
from edgelora.engine.scheduler.cached_sequences import CachedSequences, best_match

ONE, TWO = (frozenset({((version, "a.gguf"), 1.0, 0)}) for version in ("v1", "v2"))
LONG = list(range(100))


def warm(*held: tuple[int, Key, list[int]]) -> CachedSequences:
    sequences = CachedSequences()
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


def found(sequences: CachedSequences, key: Key, tokens: list[int]) -> tuple[int, int] | None:
    match = best_match(sequences, key, tokens)
    return None if match is None else (match.cached.id, match.length)


def test_the_longest_match() -> None:
    """Of one adapter version: the most shared tokens; of equals the least recently used."""
    sequences = warm((0, ONE, [*LONG[:50], 7]), (1, ONE, [*LONG[:60], 7]), (2, ONE, [*LONG[:60], 8]), (3, TWO, LONG))
    for expected in ((1, 60), (2, 60), (0, 50)):
        assert found(sequences, ONE, LONG) == expected
        sequences.remove(expected[0])
    assert found(sequences, ONE, LONG) is None


def test_nothing_crosses_versions() -> None:
    """Another version of a name, or the base alone, is another KV."""
    sequences = warm((0, ONE, LONG))
    assert found(sequences, TWO, LONG) is None and found(sequences, BASE, LONG) is None
    assert found(warm((0, BASE, LONG)), ONE, LONG) is None


@pytest.mark.parametrize("more", [0, 1, 50])
def test_the_last_token_is_always_computed(more: int) -> None:
    """Its logits are wanted: a prompt that is wholly warm is computed from its last token on."""
    sequences = warm((0, BASE, LONG + [5] * more))
    assert found(sequences, BASE, LONG) == (0, 99)
    assert found(sequences, BASE, LONG[:1]) is None and found(sequences, BASE, [5, 1]) is None


def test_the_order_is_that_of_use() -> None:
    """A sequence that was taken over comes back as the most recent."""
    sequences = warm((0, BASE, [1]), (1, BASE, [2]), (2, BASE, [3]))
    sequences.remove(0)
    sequences.keep(0, BASE, [1, 4])
    assert [entry.id for entry in sequences] == [1, 2, 0]
    assert (sequences.cells, len(sequences), sequences.ids) == (4, 3, {0, 1, 2})


@pytest.mark.parametrize(
    "wrong", [lambda s: s.keep(0, BASE, [1]), lambda s: s.keep(1, BASE, []), lambda s: s.remove(9)]
)
def test_what_cannot_be_is_refused(wrong: Callable[[CachedSequences], None]) -> None:
    """An id twice, nothing at all, an id that is not there: bugs, and the cells still add up."""
    sequences = warm((0, BASE, [1]))
    with pytest.raises((RuntimeError, KeyError)):
        wrong(sequences)
    sequences.check_integrity()


def test_integrity_is_really_checked() -> None:
    """A wrong count is noticed."""
    sequences = warm((0, BASE, [1]))
    sequences.cells += 1
    with pytest.raises(RuntimeError):
        sequences.check_integrity()


def key(*parts: tuple[str, float, int]) -> Key:
    return frozenset(((name, f"{name}.gguf"), weight, start) for name, weight, start in parts)


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [
        (BASE, key(("a", 1.0, 30)), 30),  # the base alone, then an aLoRA
        (key(("a", 1.0, 30)), key(("b", 1.0, 40)), 30),  # one aLoRA, then another
        (key(("a", 1.0, 30)), key(("a", 1.0, 60)), 30),  # the same one, invoked again later
        (key(("a", 1.0, 30)), key(("a", 0.5, 30)), 30),
        (key(("a", 1.0, 0)), key(("a", 1.0, 0), ("b", 1.0, 50)), 50),
        (key(("a", 1.0, 0), ("b", 0.5, 0)), key(("b", 0.5, 0), ("a", 1.0, 0)), 99),
        (key(("a", 1.0, 0), ("b", 0.5, 0)), key(("a", 0.5, 0), ("b", 1.0, 0)), None),
        (BASE, key(("a", 1.0, 99)), 99),  # it begins where nothing is held
    ],
)
def test_kv_is_shared_up_to_where_the_adapters_part(one: Key, other: Key, length: int | None) -> None:
    """Which adapter, which weight, since where: each parts two sequences from there on and not before."""
    for held, wanted in ((one, other), (other, one)):
        assert found(warm((0, held, LONG)), wanted, LONG) == (None if length is None else (0, length))
