"""Forms with a file: the same however they are cut, and refused before anything large is held."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.errors import UsageError
from edgelora.server.http.multipart import MAX_FIELD_BYTES, MAX_PARTS, FormReader, safe_filename

TYPE = "multipart/form-data; boundary=XX"


def part(name: str, data: bytes, *, filename: str | None = None, more: str = "") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--XX\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{more}\r\n'.encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


def read(body: bytes, *, step: int = 1 << 20) -> tuple[FormReader, bytes]:
    reader = FormReader(TYPE)
    out = b"".join(reader.feed(body[start : start + step]) for start in range(0, len(body), step))
    reader.finish()
    return reader, out


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300) | st.text("\r\n-X", max_size=60).map(str.encode), step=st.integers(1, 40))
def test_the_pieces_do_not_matter(data: bytes, step: int) -> None:
    """Cut anywhere, and with bytes that look like boundaries, a form gives the same fields and the same file."""
    if b"\r\n--XX" in b"\r\n" + data:
        return  # the one thing a part may not hold
    body = form(part("purpose", b"fine_tuning"), part("file", data, filename="a.zip"), part("more", "é".encode()))
    reader, out = read(body, step=step)
    assert out == data and reader.filename == "a.zip"
    assert reader.fields == {"purpose": "fine_tuning", "more": "é"}


def test_what_follows_the_form_is_not_read() -> None:
    """Bytes behind the last boundary are nobody's."""
    reader, out = read(form(part("file", b"data", filename="a")) + b"--XX\r\nanything", step=5)
    assert out == b"data" and reader.fields == {}


@pytest.mark.parametrize("body", [
    pytest.param(form(part("file", b"x", filename="a"))[:-10], id="cut in the file"),
    pytest.param(part("file", b"x", filename="a"), id="no last boundary"),
    pytest.param(b"", id="nothing"),
    pytest.param(b"{}", id="no form"),
    pytest.param(form(b'--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n'), id="no name"),
    pytest.param(form(b"--XX\r\n\r\nx\r\n"), id="no disposition"),
    pytest.param(form(b'--XX\r\nContent-Disposition: attachment; name="file"\r\n\r\nx\r\n'), id="another disposition"),
    pytest.param(form(part("file", b"x", filename="a", more="Content-Transfer-Encoding: base64\r\n")), id="encoded"),
    pytest.param(form(part("file", b"x", filename="a", more="".join(f"H{n}: x\r\n" for n in range(9)))), id="headers"),
    pytest.param(form(part("file", b"x", filename="a", more="H: " + "x" * 3000 + "\r\n")), id="a long header"),
    pytest.param(form(*(part(f"f{n}", b"x") for n in range(MAX_PARTS + 1))), id="too many parts"),
])  # fmt: skip
def test_what_is_no_form_is_refused(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Each with the same code, whatever the parser calls it."""
    for step in (3, 1 << 20):
        with pytest.raises(UsageError) as caught:
            read(body, step=step)
        assert caught.value.code == "bad_form"
    assert not caplog.records  # or a client could fill the log


@pytest.mark.parametrize(("body", "param"), [
    (form(part("purpose", b"x")), "file"),
    (form(part("file", b"x")), "file"),
    (form(part("other", b"x", filename="a")), "other"),
    (form(part("file", b"x", filename="a"), part("file", b"y", filename="b")), "file"),
    (form(part("purpose", b"x"), part("purpose", b"y")), "purpose"),
    (form(part("purpose", b"x" * (MAX_FIELD_BYTES + 1))), "purpose"),
])  # fmt: skip
def test_a_form_with_the_wrong_fields_is_refused_by_name(body: bytes, param: str) -> None:
    """The form has one file, as `file`; every other field is small and is there once."""
    with pytest.raises(UsageError) as caught:
        read(body)
    assert caught.value.param == param


@pytest.mark.parametrize("kind", ["", "multipart/form-data", "application/json", "multipart/mixed; boundary=XX",
                                  "multipart/form-data; boundary=" + "x" * 1000])  # fmt: skip
def test_a_content_type_without_a_usable_boundary_is_refused(kind: str) -> None:
    """Before a byte of the body is read."""
    with pytest.raises(UsageError) as caught:
        FormReader(kind)
    assert caught.value.code == "bad_form"


@pytest.mark.parametrize(("given", "shown"), [
    ("a.zip", "a.zip"),
    ("../../etc/passwd", "passwd"),
    ("C:\\temp\\a.zip", "a.zip"),
    ("a\r\nX: y\x1b[31m.zip", "aX: y[31m.zip"),
    ("..", "upload"),
    ("", "upload"),
    ("x" * 1000, "x" * 255),
    ("médecin.zip", "médecin.zip"),
])  # fmt: skip
def test_a_filename_is_for_showing(given: str, shown: str) -> None:
    """Without a path and without control characters, and never empty."""
    assert safe_filename(given) == shown
