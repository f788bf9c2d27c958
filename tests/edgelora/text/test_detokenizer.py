"""Text as the reader sees it: the same for every way the bytes may arrive, and never part of a stop string."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.text.detokenizer import ByteDecoder, Detokenizer, StopFilter


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(marks)]


def reference(text: str, stops: list[str]) -> str:
    """Character by character: the answer ends where the first stop string is complete."""
    for end in range(1, len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            return text[: end - max(map(len, done))]
    return text


def test_a_character_waits_for_its_bytes() -> None:
    """Half a character is not shown, and not replaced either."""
    detokenizer = ByteDecoder()
    assert [detokenizer.feed(bytes([b])) for b in "é€".encode()] == ["", "é", "", "", "€"]


def test_impossible_bytes_are_replaced_at_once() -> None:
    """What no further byte can repair is U+FFFD; what one could, waits for the end."""
    detokenizer = ByteDecoder()
    assert detokenizer.feed(b"a\xffb") == "a\ufffdb"
    assert detokenizer.feed(b"\xe2\x82") == ""
    assert detokenizer.finish() == "\ufffd"


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=40), st.lists(st.integers(0, 100), max_size=8))
def test_chunks_do_not_change_the_decoding(data: bytes, places: list[int]) -> None:
    """Any bytes, any chunks: what Python decodes in one go."""
    detokenizer = ByteDecoder()
    text = "".join(map(detokenizer.feed, cut(data, places))) + detokenizer.finish()
    assert text == data.decode("utf-8", "replace")


@settings(deadline=None, max_examples=300)
@given(
    st.text("abé€", max_size=30),
    st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 200), max_size=10),
)
def test_chunks_do_not_change_the_answer(text: str, stops: list[str], places: list[int]) -> None:
    """Any text, stop strings and chunks: what the character-by-character reference gives."""
    answer = Detokenizer(stops)
    shown = "".join(map(answer.feed, cut(text.encode(), places))) + answer.finish()
    assert shown == reference(text, stops)
    assert answer.stopped == any(stop in text for stop in stops)


@settings(deadline=None, max_examples=200)
@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_nothing_is_held_back_without_need(text: str, stops: list[str]) -> None:
    """What waits could begin a stop string: only such an end of the text is missing from what was shown."""
    shown = StopFilter(stops).feed(text)
    if not any(stop in text for stop in stops):
        held = text[len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stops)


def test_a_stop_string_over_several_pieces() -> None:
    """The text before it is shown, the stop string never."""
    answer = Detokenizer(["END"])
    assert [answer.feed(piece) for piece in (b"one E", b"N", b"D two", b"three")] == ["one ", "", "", ""]
    assert answer.stopped and answer.finish() == ""


def test_a_stop_string_before_it_may_end_the_answer_is_text() -> None:
    """It is shown, and one that is complete later ends the answer, wherever it began."""
    answer = Detokenizer(["END"])
    early = [answer.feed(piece, may_stop=False) for piece in (b"an END, E", b"N")]
    assert "".join(early) == "an END, " and not answer.stopped
    assert answer.feed(b"D!") == "" and answer.stopped


def test_a_stop_string_may_be_included() -> None:
    """Up to its end; nothing after it is shown."""
    answer = Detokenizer(["END", "N"], include_stop=True)
    assert answer.feed(b"the E") + answer.feed(b"NDLESS") == "the EN" and answer.stopped
    assert answer.finish() == "" and answer.shown == len("the EN")


def test_a_false_beginning_is_shown_later() -> None:
    """What only looked like a stop string comes with the next piece, or with the end."""
    answer = Detokenizer(["END"])
    assert [answer.feed(piece) for piece in (b"EN", b"JOY EN")] == ["", "ENJOY "]
    assert answer.finish() == "EN" and not answer.stopped


@pytest.mark.parametrize(("stops", "shown"), [(["bc", "abcd"], "a"), (["abcd", "bc"], "a"), (["cd", "bcd"], "a")])
def test_the_first_complete_stop_string_ends(stops: list[str], shown: str) -> None:
    """The one complete first wins, in whatever order they are given; of two complete at once, the longer."""
    assert StopFilter(stops).feed("abcd") == shown
