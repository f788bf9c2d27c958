"""gguf_header: what the file says is read exactly, and what it cannot hold is refused before it is used."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora_models.errors import AdapterCorrupt, BaseError, EdgeloraError
from edgelora_models.gguf_header import read_header
from edgelora_models.gguf_types import FILE_TYPES, GGML_TYPES, VALUE_ARRAY, VALUE_STRING, VALUE_TYPES
from tests.support.adapters import TINY
from tests.support.bases import MIN_VOCAB, write_tiny_gguf
from tests.support.fuzz import mutations

F32 = 0
BASE = replace(TINY, vocab=MIN_VOCAB)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def info(name: str | bytes, shape: Sequence[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf_bytes(
    pairs: Sequence[bytes] = (),
    infos: Sequence[bytes] = (),
    *,
    data: int = 0,
    counts: tuple[int, int] | None = None,
    magic: bytes = b"GGUF",
    version: int = 3,
) -> bytes:
    """A file byte for byte: `counts` overrides what the header claims (tensors, keys); `data` zero bytes follow."""
    tensors, keys = counts or (len(infos), len(pairs))
    head = magic + struct.pack("<IQQ", version, tensors, keys) + b"".join(pairs) + b"".join(infos)
    return head + b"\0" * (-len(head) % 32) + b"\0" * data


U32, STR = 4, VALUE_STRING
ALIGN_64 = pair("general.alignment", U32, struct.pack("<I", 64))


def refused(tmp_path: Path, content: bytes) -> BaseError:
    (tmp_path / "t.gguf").write_bytes(content)
    with pytest.raises(BaseError) as caught:
        read_header(tmp_path / "t.gguf")
    return caught.value


def test_agrees_with_the_reference_reader(tmp_path: Path) -> None:
    """Every key, type, shape, offset and size of a written base equals what the gguf package reads."""
    path = write_tiny_gguf(tmp_path / "b.gguf", BASE, seed=1, quantization="Q8_0")
    header, reference = read_header(path), gguf.GGUFReader(path)
    assert list(header.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        mine = header.tensors[tensor.name]
        assert (mine.shape, mine.type) == (tuple(int(n) for n in tensor.shape), int(tensor.tensor_type))
        assert (mine.offset, mine.nbytes) == (tensor.data_offset, tensor.n_bytes)
    theirs = {name: field.contents() for name, field in reference.fields.items() if not name.startswith("GGUF.")}
    assert header.metadata == theirs
    assert header.file_size == path.stat().st_size
    assert (header.data_offset, header.alignment) == (reference.data_offset, reference.alignment)


def test_type_tables_are_ggmls() -> None:
    """Block and type sizes, file types and value types equal those of the gguf package."""
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    sizes[9] = (32, 36)  # Q8_1, never stored: ggml keeps its two scales as halves, the package says floats
    assert {n: (t.block, t.nbytes) for n, t in GGML_TYPES.items()} == sizes
    assert {t.name for t in GGML_TYPES.values()} == {kind.name for kind in gguf.GGML_QUANT_SIZES}
    names = {
        int(t): t.name.removeprefix("MOSTLY_").removeprefix("ALL_").removesuffix("_MOE") for t in gguf.LlamaFileType
    }
    assert {n: names[n] for n in FILE_TYPES} == FILE_TYPES
    assert VALUE_TYPES.keys() | {VALUE_STRING, VALUE_ARRAY} == {int(kind) for kind in gguf.GGUFValueType}


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).map("x.".__add__),
        st.one_of(
            st.booleans(),
            st.integers(-(2**31), 2**31 - 1),
            st.floats(width=32, allow_nan=False),
            st.text(max_size=30),
            st.lists(st.text(max_size=9), min_size=1, max_size=9),
            st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9),
        ),
        max_size=6,
    )
)
def test_any_metadata_is_read_back(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    """Scalars, strings of any script and arrays come back as written by the gguf package."""
    path = tmp_path_factory.mktemp("g") / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, value in values.items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_header(path).metadata == {"general.architecture": "llama", **values}


def test_types_tell_stored_widths_apart(tmp_path: Path) -> None:
    """A float stored as f64 and one as f32 are told apart: llama.cpp dies of the former in an adapter's alpha."""
    array = struct.pack("<IQ2H", 2, 2, 7, 8)
    pairs = [pair("a", 6, struct.pack("<f", 1.5)), pair("b", 12, struct.pack("<d", 1.5)), pair("c", VALUE_ARRAY, array)]
    (tmp_path / "t").write_bytes(gguf_bytes(pairs))
    header = read_header(tmp_path / "t")
    assert header.metadata == {"a": 1.5, "b": 1.5, "c": [7, 8]}
    assert header.types == {"a": "f32", "b": "f64", "c": "[u16]"}


def test_large_vocabularies_cross_the_readers_steps(tmp_path: Path) -> None:
    """Strings that lie across the blocks the file is fetched in come out whole."""
    tokens = [f"token {n} {'é' * (n % 50)}" for n in range(60_000)]
    array = struct.pack("<IQ", STR, len(tokens)) + b"".join(map(text, tokens))
    (tmp_path / "t").write_bytes(gguf_bytes([pair("tokens", VALUE_ARRAY, array), pair("end", STR, text("here"))]))
    assert read_header(tmp_path / "t").metadata == {"tokens": tokens, "end": "here"}


def test_alignment_is_honoured(tmp_path: Path) -> None:
    """Offsets and the data's beginning follow general.alignment; the last tensor needs no padding."""
    content = gguf_bytes([ALIGN_64], [info("a", (3,), F32, 0), info("b", (1,), F32, 64)])
    content += b"\0" * (-len(content) % 64 + 68)
    (tmp_path / "t").write_bytes(content)
    header = read_header(tmp_path / "t")
    assert header.data_offset % 64 == 0
    assert header.tensors["b"].offset == header.data_offset + 64
    assert header.tensors["b"].offset + 4 == header.file_size


MAX = 2**64 - 1
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "magic": gguf_bytes(magic=b"GGML"),
    "version 1": gguf_bytes(version=1),
    "version 2": gguf_bytes(version=2),
    "big-endian": gguf_bytes(version=3 << 24),
    "tensor count": gguf_bytes(counts=(MAX, 0)),
    "key count": gguf_bytes(counts=(0, MAX)),
    "one key too many": gguf_bytes([ALIGN_64], counts=(0, 2)),
    "key length": gguf_bytes([struct.pack("<Q", MAX) + b"x" * 99]),
    "empty key": gguf_bytes([pair("", U32, b"\0" * 4)]),
    "long key": gguf_bytes([pair("k" * 2000, U32, b"\0" * 4)]),
    "key not utf-8": gguf_bytes([pair(b"\xff", U32, b"\0" * 4)]),
    "value not utf-8": gguf_bytes([pair("k", STR, text(b"\xc3("))]),
    "string length": gguf_bytes([pair("k", STR, struct.pack("<Q", 1 << 40))]),
    "string length that overflows": gguf_bytes([pair("k", STR, struct.pack("<Q", MAX - 4))]),
    "duplicate key": gguf_bytes([ALIGN_64, ALIGN_64]),
    "value type": gguf_bytes([pair("k", 99, b"\0" * 8)]),
    "array of arrays": gguf_bytes([pair("k", VALUE_ARRAY, struct.pack("<IQ", VALUE_ARRAY, 1) + b"\0" * 64)]),
    "array count": gguf_bytes([pair("k", VALUE_ARRAY, struct.pack("<IQ", 0, MAX))]),
    "string array count": gguf_bytes([pair("k", VALUE_ARRAY, struct.pack("<IQ", STR, 1 << 61))]),
    "alignment zero": gguf_bytes([pair("general.alignment", U32, struct.pack("<I", 0))]),
    "alignment 48": gguf_bytes([pair("general.alignment", U32, struct.pack("<I", 48))]),
    "alignment huge": gguf_bytes([pair("general.alignment", U32, struct.pack("<I", 1 << 30))]),
    "alignment text": gguf_bytes([pair("general.alignment", STR, text("32"))]),
    "duplicate tensor": gguf_bytes([], [info("a", (8,), F32, 0), info("a", (8,), F32, 32)], data=64),
    "empty name": gguf_bytes([], [info("", (8,), F32, 0)], data=32),
    "long name": gguf_bytes([], [info("n" * 64, (8,), F32, 0)], data=32),
    "zero in name": gguf_bytes([], [info("a\0b", (8,), F32, 0)], data=32),
    "no dimensions": gguf_bytes([], [info("a", (), F32, 0)], data=32),
    "five dimensions": gguf_bytes([], [info("a", (1, 1, 1, 1, 8), F32, 0)], data=32),
    "zero dimension": gguf_bytes([], [info("a", (8, 0), F32, 0)], data=32),
    "product overflows": gguf_bytes([], [info("a", (1 << 33, 1 << 33), F32, 0)], data=32),
    "product overflows to small": gguf_bytes([], [info("a", (1 << 32, 1 << 32, 8), F32, 0)], data=32),
    "unknown type": gguf_bytes([], [info("a", (8,), 4, 0)], data=32),
    "type beyond the table": gguf_bytes([], [info("a", (8,), 1 << 31, 0)], data=32),
    "row not in blocks": gguf_bytes([], [info("a", (33,), 8, 0)], data=64),
    "offset beyond the file": gguf_bytes([], [info("a", (8,), F32, 1 << 40)], data=32),
    "offset overflows": gguf_bytes([], [info("a", (8,), F32, MAX - 31)], data=32),
    "unaligned offset": gguf_bytes([], [info("a", (8,), F32, 4)], data=64),
    "overlap": gguf_bytes([], [info("a", (8,), F32, 0), info("b", (8,), F32, 0)], data=64),
    "gap": gguf_bytes([], [info("a", (8,), F32, 0), info("b", (8,), F32, 64)], data=96),
    "data cut": gguf_bytes([], [info("a", (9,), F32, 0)], data=32),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_headers_are_refused(tmp_path: Path, name: str) -> None:
    """Whatever a file claims beyond what it holds, or against the format, is refused by a clear error."""
    assert refused(tmp_path, BROKEN[name]).code == "bad_gguf"


def test_the_caller_picks_the_error(tmp_path: Path) -> None:
    """Adapters and bases are read by the same code."""
    (tmp_path / "t").write_bytes(b"GGUF")
    with pytest.raises(AdapterCorrupt):
        read_header(tmp_path / "t", error=AdapterCorrupt)
    with pytest.raises(AdapterCorrupt):
        read_header(tmp_path / "missing", error=AdapterCorrupt)


def test_every_cut_of_the_header_is_refused(tmp_path: Path) -> None:
    """A file that ends anywhere before its last data byte."""
    content = gguf_bytes([ALIGN_64, pair("s", STR, text("text"))], [info("a", (8,), F32, 0)])
    content += b"\0" * (-len(content) % 64 + 32)
    for end in range(len(content)):
        refused(tmp_path, content[:end])


def test_mutated_files_never_escape_the_error_tree(tmp_path: Path) -> None:
    """Damaged files either read, with every tensor within the file, or raise an EdgeloraError."""
    path = write_tiny_gguf(tmp_path / "b.gguf", BASE, seed=1)
    header_size = read_header(path).data_offset
    data = path.read_bytes()[: header_size + 300_000]
    refusals = 0
    for mutant in mutations(data, seed=5, count=250, within=header_size):
        path.write_bytes(mutant)
        try:
            header = read_header(path)
        except EdgeloraError:
            refusals += 1
            continue
        assert all(t.offset + t.nbytes <= len(mutant) for t in header.tensors.values())
    assert 120 < refusals <= 250


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    """With the command that fetches the file itself."""
    path = tmp_path / "base.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 4920739232\n")
    with pytest.raises(BaseError) as caught:
        read_header(path)
    assert caught.value.code == "git_lfs_pointer" and "git lfs pull" in caught.value.remedy
