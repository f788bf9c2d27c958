"""A body is read within bounds, and JSON that could mean two things is no JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.errors import EdgeloraError
from edgelora.server.http.errors import BodyTimeout, BodyTooLarge, ClientGone
from edgelora.server.http.json_body import MAX_DEPTH, MAX_DIGITS, MAX_VALUES, parse_object, read_body

REFUSED = {
    b"": "Expecting value",
    b"{": "property name",
    b"[]": "an object",
    b"null": "an object",
    b'"text"': "an object",
    b'{"a": 1} x': "Extra data",
    b"{'a': 1}": "property name",
    b'{"a": NaN}': "NaN",
    b'{"a": Infinity}': "Infinity",
    b'{"a": -Infinity}': "Infinity",
    b'{"a": 1e999}': "too large",
    b'{"a": -1e999}': "too large",
    b'{"a": ' + b"9" * 5000 + b"}": "too many digits",
    b'{"a": -' + b"9" * MAX_DIGITS + b"}": "too many digits",
    b'{"a": 1, "a": 2}': "twice",
    b'{"b": {"a": 1, "\\u0061": 1}}': "twice",
    b'{"a": "\xff"}': "UTF-8",
    b'{"a": "\xed\xa0\x80"}': "UTF-8",
    b"\xef\xbb\xbf{}": "BOM",
    b"{\x00}": "property name",
    b'{"a": "\n"}': "control character",
    b'{"a": ' + b"[" * 100_000: "nested deeper",
    b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}": "nested deeper",
    b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1): "nested deeper",
    b'{"a": [' + b"1," * MAX_VALUES + b"1]}": "values",
    b'{"a": [' + b"{}," * (MAX_VALUES // 2) + b"{}]}": "values",
}


@pytest.mark.parametrize("body", REFUSED)
def test_what_is_refused_says_why(body: bytes) -> None:
    """A body that is no valid JSON object is invalid_json, with the reason."""
    with pytest.raises(EdgeloraError) as caught:
        parse_object(body)
    assert caught.value.code == "invalid_json"
    assert REFUSED[body] in str(caught.value)


def test_brackets_inside_strings_do_not_count() -> None:
    """Depth is that of the JSON, not of the text in it."""
    text = '[{"\\' * 500
    assert parse_object(json.dumps({"a": text}).encode()) == {"a": text}
    deepest = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert "a" in parse_object(deepest)


def test_numbers_of_the_largest_size() -> None:
    """64 digits are read exactly, and the smallest of doubles are no error."""
    number = int("9" * MAX_DIGITS)
    assert parse_object(b'{"a": %d, "b": 1e-999, "c": -0.0}' % number) == {"a": number, "b": 0.0, "c": 0.0}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"a": "\\ud800"}', "a"),
        (b'{"a": [{"b": "x"}, {"b": "x\\uDFFFy"}]}', "a[1].b"),
        (b'{"a": {"\\udc00": 1}}', "a"),
        (b'{"\\udc00": 1}', ""),
        (b'{"a": "\\ude00\\ud83d"}', "a"),
        (b'{"%s": "\\ud800"}' % (b"k" * 5000), "k" * 200),
    ],
)
def test_half_of_a_surrogate_pair(body: bytes, param: str) -> None:
    """Text that is none is refused wherever it stands, in fields nobody reads too, and the error names the place."""
    with pytest.raises(EdgeloraError) as caught:
        parse_object(body)
    assert (caught.value.code, caught.value.param) == ("invalid_value", param)
    str(caught.value).encode()


def test_whole_pairs_are_characters() -> None:
    """An escaped pair is one character like any other, and backslashes before a `u` are no escape."""
    assert parse_object(b'{"a": "\\ud83d\\ude00 \\\\ud800"}') == {"a": "\U0001f600 \\ud800"}


def test_strings_that_never_end_take_linear_time() -> None:
    """A megabyte of escaped quotes is refused as quickly as any other text (a quadratic scan would never end)."""
    for body in (b'{"' + b'\\"' * 500_000, b'"' * 999_999, b"\\" * 1_000_000):
        with pytest.raises(EdgeloraError):
            parse_object(body)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), _values, max_size=4), st.booleans())
@settings(deadline=None, max_examples=150)
def test_clean_objects_come_through_unchanged(value: dict[str, Any], ascii_only: bool) -> None:
    """Every object that json writes is read back unchanged."""
    try:
        body = json.dumps(value, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    assert parse_object(body) == value


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=200)
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    """Any bytes give an object or an error of the tree."""
    try:
        assert isinstance(parse_object(body), dict)
    except EdgeloraError as error:
        assert error.code in ("invalid_json", "invalid_value")


class Sender:
    """An ASGI receive over prepared pieces; afterwards it waits forever."""

    def __init__(self, *pieces: bytes, end: bool = True) -> None:
        self.messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": not end or index + 1 < len(pieces)}
            for index, piece in enumerate(pieces)
        ]
        self.taken = 0

    async def __call__(self) -> dict[str, Any]:
        if not self.messages:
            await asyncio.Event().wait()
        self.taken += 1
        return self.messages.pop(0)


def _read(sender: Sender, *, declared: int | None = None, limit: int = 10, seconds: float = 20) -> bytes:
    return asyncio.run(read_body(sender, declared=declared, limit=limit, seconds=seconds))


def test_a_body_is_put_together() -> None:
    """Pieces are joined, up to the limit exactly."""
    assert _read(Sender(b"12345", b"", b"67890")) == b"1234567890"


@pytest.mark.parametrize("declared", [None, 5])
def test_a_body_over_the_limit_is_refused_while_it_streams(declared: int | None) -> None:
    """Neither a missing nor a wrong Content-Length lets more than the limit into memory."""
    sender = Sender(b"12345", b"678901", b"rest")
    with pytest.raises(BodyTooLarge) as caught:
        _read(sender, declared=declared)
    assert caught.value.status == 413
    assert sender.taken == 3, "the rest is read and thrown away, so that the client gets the answer"


def test_a_declared_length_over_the_limit_is_refused() -> None:
    """The declared length is believed where it condemns the request."""
    with pytest.raises(BodyTooLarge):
        _read(Sender(b"1"), declared=11)


def test_a_body_that_does_not_arrive_is_refused() -> None:
    """A client that stops sending gets 408, not a place for ever."""
    with pytest.raises(BodyTimeout) as caught:
        _read(Sender(b"1", end=False), seconds=0.01)
    assert caught.value.status == 408


def test_a_client_that_hangs_up_while_sending() -> None:
    """A disconnect inside the body is no request."""
    sender = Sender(b"1", end=False)
    sender.messages.append({"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        _read(sender)
