"""A header with more keys, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora_converters.gguf.header_edit import with_keys
from edgelora_models.errors import BaseError
from edgelora_models.gguf_header import read_header
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA


@pytest.mark.parametrize("value", ["", "x", "ü" * 100])
def test_keys_are_added(tmp_path: Path, value: str) -> None:
    """Every key, type and tensor is as before, the new key is there, the data begins where the header says."""
    path = write_tiny_gguf(tmp_path / "a.gguf", GQA, seed=1)
    before = read_header(path)
    edited = with_keys(path, before, {"edgelora.note": value, "edgelora.more": "1"})
    (tmp_path / "b.gguf").write_bytes(edited + path.read_bytes()[before.data_offset :])
    after = read_header(tmp_path / "b.gguf")
    assert after.metadata == {**before.metadata, "edgelora.note": value, "edgelora.more": "1"}
    assert {key: after.types[key] for key in before.types} == before.types
    assert after.data_offset == len(edited)
    shift = after.data_offset - before.data_offset
    assert {n: t.offset - shift for n, t in after.tensors.items()} == {n: t.offset for n, t in before.tensors.items()}


def test_nothing_added_is_the_same_header(tmp_path: Path) -> None:
    """Without new keys the bytes are the file's own."""
    path = write_tiny_gguf(tmp_path / "a.gguf", GQA, seed=1)
    header = read_header(path)
    assert with_keys(path, header, {}) == path.read_bytes()[: header.data_offset]


def test_another_file_is_noticed(tmp_path: Path) -> None:
    """A header that is not the file's finds no place in it."""
    path = write_tiny_gguf(tmp_path / "a.gguf", GQA, seed=1)
    header = read_header(path)
    path.write_bytes(path.read_bytes().replace(b"blk.1.attn_q", b"blk.1.attn_x"))
    with pytest.raises(BaseError):
        with_keys(path, header, {})
