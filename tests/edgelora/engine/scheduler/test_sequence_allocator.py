"""Who gets which sequence id, and whose warm KV goes for it."""

from __future__ import annotations

import pytest

from edgelora.core.kv import BASE
from edgelora.core.request import Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.scheduler.plan import Copy, Cut, Start
from edgelora.engine.scheduler.sequence import Sequence
from edgelora.engine.scheduler.sequence_allocator import AllocatedId, Allocation, SequenceAllocator


def newcomer(name: str, first: int, *, length: int = 40) -> Sequence:
    tokens = tuple(range(first, first + length))
    return Sequence(Request(name, tokens, (), SamplingParams()), arrival=0, max_tokens=99)


def allocator(count: int, *warm: tuple[int, int]) -> SequenceAllocator:
    """`warm`: id and first token of sequences of 40 tokens, least recently used first."""
    made = SequenceAllocator(count)
    for sequence_id, first in warm:
        made.take(Start("old", sequence_id, 0))
        made.cached.keep(sequence_id, BASE, list(range(first, first + 40)))
    made.check_integrity([])
    return made


def test_free_ids_go_first() -> None:
    """Nothing warm is given up while there are free ids and cells."""
    made = allocator(4, (0, 100), (2, 200)).choose([newcomer("a", 500), newcomer("b", 600)], cells=80)
    assert made == Allocation((Start("a", 1, 0), Start("b", 3, 0)), (), ())


def test_ids_are_given_up_least_recently_used_first() -> None:
    """As many as are missing."""
    made = allocator(3, (1, 100), (0, 200), (2, 300)).choose([newcomer("a", 500), newcomer("b", 600)], cells=80)
    assert made == Allocation((Start("a", 1, 0), Start("b", 0, 0)), (1, 0), (Cut(1, 0), Cut(0, 0)))


@pytest.mark.parametrize(("cells", "expected"), [(120, ()), (119, (1,)), (80, (1,)), (79, (1, 0)), (0, (1, 0, 2))])
def test_cells_are_given_up_least_recently_used_first(cells: int, expected: tuple[int, ...]) -> None:
    """As many sequences as it takes, even where nobody starts."""
    made = allocator(4, (1, 100), (0, 200), (2, 300)).choose([], cells=cells)
    assert made == Allocation((), expected, tuple(Cut(n, 0) for n in expected))


@pytest.mark.parametrize("length", [37, 41, 99])
def test_what_is_reused_nearly_whole_is_taken_over(length: int) -> None:
    """The next turn of a chat, or the same again: in the same id, cut back to what is shared."""
    shared = min(length - 1, 40)
    made = allocator(3, (0, 300), (1, 100)).choose([newcomer("a", 100, length=length)], cells=40)
    assert made == Allocation((Start("a", 1, shared),), (), (Cut(1, shared),))


def test_a_shared_beginning_is_copied() -> None:
    """A conversation is not lost because another one begins alike; both newcomers have the beginning."""
    made = allocator(3, (0, 100)).choose([newcomer("a", 100, length=9), newcomer("b", 100, length=11)], cells=40)
    assert made == Allocation((Start("a", 1, 8), Start("b", 2, 10)), (), (Copy(0, 1, 8), Copy(0, 2, 10)))


def test_the_least_recently_used_goes_for_a_copy() -> None:
    """Without a free id: another than the source is given up first, cleared, then copied to."""
    made = allocator(2, (0, 200), (1, 100)).choose([newcomer("a", 100, length=9)], cells=40)
    assert made == Allocation((Start("a", 0, 8),), (0,), (Cut(0, 0), Copy(1, 0, 8)))


def test_who_would_go_anyway_is_taken_over() -> None:
    """The least recently used has the beginning, and its id is needed: cut back, whatever it loses."""
    made = allocator(2, (0, 100), (1, 200)).choose([newcomer("a", 100, length=9)], cells=40)
    assert made == Allocation((Start("a", 0, 8),), (), (Cut(0, 8),))


def test_a_source_that_must_go_is_copied_before() -> None:
    """For want of cells it is given up in the end, and its beginning lives on."""
    made = allocator(2, (0, 100)).choose([newcomer("a", 100, length=9)], cells=39)
    assert made == Allocation((Start("a", 1, 8),), (0,), (Copy(0, 1, 8), Cut(0, 0)))


def test_room_for_kv_from_elsewhere() -> None:
    """A free id first; then the least recently used goes, for its id or for its cells; never more than there is. What
    ended and is not cleared yet is cleared before."""
    made = allocator(3, (1, 100), (0, 200))
    assert made.make_room(30, cells=110) == AllocatedId(2, ())
    made.cached.keep(2, BASE, list(range(30)))
    assert made.make_room(30, cells=110) == AllocatedId(1, (Cut(1, 0),))
    made.give_back(1)
    made.check_integrity([])
    assert made.make_room(111, cells=110) is None
    assert made.make_room(111, cells=140) == AllocatedId(0, (Cut(1, 0), Cut(0, 0), Cut(2, 0)))
    made.check_integrity([0])
    assert [made.make_room(1, cells=200) for _ in range(3)] == [AllocatedId(1, ()), AllocatedId(2, ()), None]


def test_an_id_to_be_cleared_is_not_given_out() -> None:
    """Given back after a failure, it is there again once it was named."""
    made = SequenceAllocator(1)
    made.take(Start("a", 0, 0))
    made.check_integrity([0])
    made.give_back(0)
    assert made.available == 0 and made.clears() == (0,) and made.clears() == () and made.available == 1
    made.check_integrity([])
    with pytest.raises(RuntimeError):
        made.check_integrity([0])
