"""Parsing a multipart/form-data body with one file while it arrives. Pure: bytes in, bytes of the file out.

Format: RFC 7578. python-multipart scans for the boundary; the limits on parts, headers and fields are our own, and each
is checked before data of that size is kept.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgelora.core.errors import UsageError

MAX_PARTS = 16
MAX_FIELD_BYTES = 4 << 10
"""Maximum size of a field other than the file."""
MAX_PART_HEADERS = 8
MAX_HEADER_BYTES = 2 << 10
"""Maximum size of one header of a part."""
MAX_NAME = 255

FILE = "file"
"""The name of the field that holds the file."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class FormReader:
    """A parser of one form. Call `feed` with each chunk of the body, then `finish`; both raise UsageError."""

    def __init__(self, content_type: str) -> None:
        from python_multipart import MultipartParser
        from python_multipart.multipart import parse_options_header

        # It logs every malformed form, which would let clients fill the log; the reply says the same.
        logging.getLogger("python_multipart.multipart").setLevel(logging.ERROR)
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise _bad("its Content-Type names no boundary")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """The client's name of the file, without its path; None until its part has begun."""
        self._parts = 0
        self._complete = False
        self._headers: dict[bytes, bytes] = {}
        self._key, self._value = bytearray(), bytearray()
        self._name: str | None = None
        """The field of the current part; None for the file's."""
        self._field = bytearray()
        self._out: list[bytes] = []
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._key.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._ended,
        }
        with _parser_errors():
            self._parser = MultipartParser(
                boundary, callbacks, max_header_count=MAX_PART_HEADERS, max_header_size=MAX_HEADER_BYTES
            )

    def feed(self, data: bytes) -> bytes:
        """Parse the next chunk of the body, and return the bytes of it that belong to the file."""
        if self._complete:
            return b""  # after the last boundary there is nothing to read
        with _parser_errors():
            self._parser.write(data)
        out, self._out = b"".join(self._out), []
        return out

    def finish(self) -> None:
        """Raises UsageError if the body ended early or had no file."""
        if not self._complete:
            raise _bad("it ends before its last boundary")
        if self.filename is None:
            raise UsageError("missing_required_parameter", f"The form has no {FILE!r}.", param=FILE)

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _bad(f"it has more than {MAX_PARTS} parts")
        self._headers, self._field = {}, bytearray()

    def _header(self) -> None:
        self._headers[bytes(self._key).lower()] = bytes(self._value)
        self._key, self._value = bytearray(), bytearray()

    def _open(self) -> None:
        from python_multipart.multipart import parse_options_header

        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise _bad("a part of it has no name")
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"7bit", b"8bit"):
            raise _bad("a part of it is encoded")
        name = _text(options[b"name"])
        if b"filename" not in options:
            self._name = name
            return
        if name != FILE or self.filename is not None:
            raise UsageError("invalid_value", f"The form may have one file, as the field {FILE!r}.", param=name)
        self._name, self.filename = None, safe_filename(_text(options[b"filename"]))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            self._out.append(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > MAX_FIELD_BYTES:
            raise UsageError("invalid_value", f"The field has over {MAX_FIELD_BYTES} bytes.", param=self._name)

    def _end(self) -> None:
        if self._name is None:
            return
        if self._name in self.fields:
            raise UsageError("invalid_value", f"The form has the field {self._name!r} twice.", param=self._name)
        self.fields[self._name] = _text(bytes(self._field))

    def _ended(self) -> None:
        self._complete = True


def safe_filename(text: str) -> str:
    """Return a client's name for a file without path and control characters. It is for display, never opened."""
    name = _UNSAFE.sub("", re.split(r"[/\\]", text)[-1])[:MAX_NAME]
    return name if name.strip(". ") else "upload"


@contextmanager
def _parser_errors() -> Iterator[None]:
    """Raise the parser's errors as UsageError."""
    from python_multipart.exceptions import FormParserError

    try:
        yield
    except FormParserError as error:
        raise _bad(str(error).rstrip(".")[:200]) from error


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _bad(why: str) -> UsageError:
    return UsageError("bad_form", f"The server cannot read the body as a form: {why}.", "Send multipart/form-data.")
