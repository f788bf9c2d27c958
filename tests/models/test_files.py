"""files: small files from outside are read whole, capped, and as strict JSON."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgelora_models.errors import BaseError
from edgelora_models.files import parse_object, quoted, read_bytes, read_json, read_text, regular_size

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 1583664\n"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"3", b'{"a":1,}', b'{"a":1,"a":1}', b'{"b":{"a":1,"a":2}}', b'{"a":NaN}', b'{"a":-Infinity}'),
        *(b'\xef\xbb\xbf{"a":1}', b'{"a":"\xff"}', b'{"a":' * 50_000, b'{"a":%s}' % (b"1" * 5000), b'{"a":"\\ud800"}'),
    ],
)
def test_loose_json_is_refused(data: bytes) -> None:
    """Duplicate keys, non-numbers, lone surrogates, depth, byte-order marks, huge numbers, other types."""
    with pytest.raises(BaseError, match="It"):
        parse_object(data, where="It", error=BaseError)


def test_sound_json_is_read(tmp_path: Path) -> None:
    """Escaped surrogate pairs are characters like any other."""
    (tmp_path / "a").write_bytes(b'{"a":["\\ud83d\\ude00",1.5,null],"b":{}}')
    assert read_json(tmp_path / "a", limit=99, error=BaseError) == {"a": ["😀", 1.5, None], "b": {}}


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    """Notepad puts one in front of a file. Inside a binary file's header it stays an error (see above)."""
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbf{"a":1}')
    assert read_json(tmp_path / "a", limit=99, error=BaseError) == {"a": 1}


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    """With the command that fetches the file itself."""
    (tmp_path / "a.json").write_bytes(POINTER)
    with pytest.raises(BaseError) as caught:
        read_json(tmp_path / "a.json", limit=999, error=BaseError)
    assert caught.value.code == "git_lfs_pointer" and "a.json" in caught.value.what
    assert "git lfs pull" in caught.value.remedy


def test_the_limit_is_exact(tmp_path: Path) -> None:
    """At the limit it is read, one byte beyond it is refused."""
    (tmp_path / "a").write_bytes(b"x" * 10)
    assert read_bytes(tmp_path / "a", limit=10, error=BaseError) == b"x" * 10
    with pytest.raises(BaseError, match="at most 9"):
        read_bytes(tmp_path / "a", limit=9, error=BaseError)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A missing file, a folder, and a pipe that would block for ever."""
    paths = [tmp_path / "nothing", tmp_path]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        paths.append(tmp_path / "pipe")
    for path in paths:
        with pytest.raises(BaseError):
            regular_size(path, error=BaseError)


def test_text_keeps_its_line_ends(tmp_path: Path) -> None:
    """Digests depend on every byte."""
    (tmp_path / "a").write_bytes(b"a\r\nb\n")
    assert read_text(tmp_path / "a", limit=9, error=BaseError) == "a\r\nb\n"


def test_names_in_messages_are_harmless() -> None:
    """Quoted, cut, and without control characters."""
    assert quoted("a\x1b[2Jb\n") == r"'a\x1b[2Jb\n'"
    assert len(quoted("x" * 10_000)) < 200
