"""Who gets which sequence id, and whose warm KV goes for it."""

from __future__ import annotations

import pytest

from edgelora.core import Request, SamplingParams
from edgelora.places import Places
from edgelora.plan import Start
from edgelora.sequence import Sequence


def newcomer(name: str, first: int, *, length: int = 40) -> Sequence:
    tokens = tuple(range(first, first + length))
    return Sequence(Request(name, tokens, None, SamplingParams()), arrival=0, max_tokens=99)


def places(count: int, *warm: tuple[int, int]) -> Places:
    """`warm`: id and first token of sequences of 40 tokens, least recently used first."""
    made = Places(count)
    for sequence_id, first in warm:
        made.take(Start("old", sequence_id, 0))
        made.warm.keep(sequence_id, None, list(range(first, first + 40)))
    made.check_integrity([])
    return made


def test_free_ids_go_first() -> None:
    """Nothing warm is given up while there are free ids and cells."""
    made = places(4, (0, 100), (2, 200))
    starts, given_up = made.choose([newcomer("a", 500), newcomer("b", 600)], cells=80)
    assert starts == [Start("a", 1, 0), Start("b", 3, 0)] and given_up == []


def test_ids_are_given_up_least_recently_used_first() -> None:
    """As many as are missing; what a newcomer goes on from is not among them."""
    made = places(3, (1, 100), (0, 200), (2, 300))
    starts, given_up = made.choose([newcomer("a", 500), newcomer("b", 100)], cells=80)
    assert starts == [Start("a", 0, 0), Start("b", 1, 39)] and given_up == [0]


@pytest.mark.parametrize(("cells", "expected"), [(120, []), (119, [1]), (80, [1]), (79, [1, 0]), (0, [1, 0, 2])])
def test_cells_are_given_up_least_recently_used_first(cells: int, expected: list[int]) -> None:
    """As many sequences as it takes, even where nobody starts."""
    assert places(4, (1, 100), (0, 200), (2, 300)).choose([], cells=cells) == ([], expected)


def test_one_warm_sequence_serves_one() -> None:
    """Of two that would go on from it the older does, the other computes its own."""
    made = places(2, (0, 100))
    starts, given_up = made.choose([newcomer("a", 100), newcomer("b", 100)], cells=0)
    assert starts == [Start("a", 0, 39), Start("b", 1, 0)] and given_up == []


def test_an_id_to_be_cleared_is_not_given_out() -> None:
    """Given back after a failure, it is there again once it was named."""
    made = Places(1)
    made.take(Start("a", 0, 0))
    made.check_integrity([0])
    made.give_back(0)
    assert made.available == 0 and made.clears() == (0,) and made.clears() == () and made.available == 1
    made.check_integrity([])
    with pytest.raises(RuntimeError):
        made.check_integrity([0])
