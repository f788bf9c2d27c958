"""How often drafts were right, as it is learnt."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.engine.speculative.acceptance import UNKNOWN, Acceptance


@settings(deadline=None, max_examples=60)
@given(seen=st.lists(st.tuples(st.integers(2, 40), st.booleans()), max_size=80))
def test_a_chance_is_a_chance(seen: list[tuple[int, bool]]) -> None:
    """Always between 0 and 1, and of a length nothing was seen of, what is known of everyone, or one of UNKNOWN."""
    everyone = Acceptance()
    one, other = Acceptance(everyone), Acceptance(everyone)
    for length, right in seen:
        one.note(length, right)
    for length in range(2, 40):
        assert 0 < one.chance(length) < 1
        assert other.chance(length) == everyone.chance(length)
        if not any((length - 1).bit_length() == (n - 1).bit_length() or min(n, length) > 8 for n, _ in seen):
            assert one.chance(length) in UNKNOWN


def test_what_is_long_ago_is_forgotten() -> None:
    """An answer that begins to copy, or ends to, is known to within twenty tokens or so."""
    one = Acceptance(Acceptance())
    for right, low, high in ((False, 0.0, 0.1), (True, 0.85, 1.0), (False, 0.0, 0.15)):
        for _ in range(25):
            one.note(3, right)
        assert low <= one.chance(3) <= high


def test_lengths_are_apart() -> None:
    """Long matches may be sure where short ones are accidents."""
    one = Acceptance()
    for _ in range(40):
        one.note(2, False)
        one.note(20, True)
    assert one.chance(2) < 0.05 and one.chance(200) > 0.9
    assert one.chance(3) == one.chance(4) == UNKNOWN[1]


def test_one_sequence_does_not_speak_for_all() -> None:
    """A new sequence begins between nothing and what another one saw, and is soon its own."""
    everyone = Acceptance()
    copying, fresh = Acceptance(everyone), Acceptance(everyone)
    for _ in range(10):
        copying.note(2, True)
    assert UNKNOWN[0] < fresh.chance(2) < copying.chance(2)
    for _ in range(8):
        fresh.note(2, False)
    assert fresh.chance(2) < 0.2 < 0.5 < copying.chance(2)
