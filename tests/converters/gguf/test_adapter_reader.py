"""The GGUF adapter reader: it gives back what was written, and stops whatever would take llama.cpp down."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora_converters.gguf import adapter_reader as gguf_adapter_reader
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.gguf.writer import INVOCATION_KEY
from edgelora_converters.lora.adapter import LoraAdapter, Target
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterIncompatible, AdapterUnsupported, StorageError
from edgelora_models.gguf_header import read_header
from edgelora_models.modules import BY_GGUF
from edgelora_models.shape import LlamaShape
from tests.support.lora import GQA, random_adapter, shaped_adapters

Q = Target(0, BY_GGUF["attn_q"])
NAME = "blk.0.attn_q.weight"
A = np.linspace(-1, 1, 4 * 64, dtype=np.float32).reshape(4, 64)
B = np.linspace(2, -2, 64 * 4, dtype=np.float32).reshape(64, 4)
PAIR: dict[str, NDArray[Any]] = {f"{NAME}.lora_a": A, f"{NAME}.lora_b": B}
BF16 = gguf_package.GGMLQuantizationType.BF16

Keys = Callable[[gguf_package.GGUFWriter], None]


def write_file(
    path: Path,
    tensors: Mapping[str, NDArray[Any]] = PAIR,
    *,
    architecture: str = "llama",
    general: str = "adapter",
    adapter: str = "lora",
    keys: Keys = lambda writer: writer.add_float32("adapter.lora.alpha", 0.0),
) -> Path:
    """An adapter file with anything in it, sound as GGUF. uint16 arrays are stored as BF16, uint8 as Q8_0."""
    writer = gguf_package.GGUFWriter(path, architecture)
    writer.add_string("general.type", general)
    writer.add_string("adapter.type", adapter)
    keys(writer)
    raw = {np.dtype(np.uint16): BF16, np.dtype(np.uint8): gguf_package.GGMLQuantizationType.Q8_0}
    for name, values in tensors.items():
        writer.add_tensor(name, values, raw_dtype=raw.get(values.dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@settings(max_examples=25, deadline=None)
@given(shaped_adapters())
def test_what_was_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[LlamaShape, LoraAdapter]
) -> None:
    """Every pair, bit for bit: a as it was, b folded and with the rows llama.cpp wants, as gguf-py reads them."""
    shape, adapter = case
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    gguf_writer.write(adapter, shape, path, provenance={})
    found = gguf_adapter_reader.read(path, shape)
    assert found.keys() == adapter.pairs.keys()
    reference = {t.name: np.asarray(t.data) for t in gguf_package.GGUFReader(path).tensors}
    for target, (a, b) in found.items():
        name = target.module.gguf_path(target.layer)
        assert (a.dtype, b.dtype) == (np.float32, np.float32)
        np.testing.assert_array_equal(a, adapter.pairs[target].a)
        np.testing.assert_array_equal(b, reference[f"{name}.lora_b"])


@pytest.mark.parametrize(
    ("stored", "widened"),
    [
        ({n: t.astype(np.float16) for n, t in PAIR.items()}, A.astype(np.float16).astype(np.float32)),
        (
            {n: (t.view(np.uint32) >> 16).astype(np.uint16) for n, t in PAIR.items()},
            (A.view(np.uint32) >> 16 << 16).view(np.float32),
        ),
    ],
    ids=["F16", "BF16"],
)
def test_half_precision_is_widened_exactly(
    tmp_path: Path, stored: Mapping[str, NDArray[Any]], widened: NDArray[np.float32]
) -> None:
    """F16 and BF16 come back as the same numbers in float32."""
    a, b = gguf_adapter_reader.read(write_file(tmp_path / "a.gguf", stored), GQA)[Q]
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a, widened)
    raw_a, raw_b = gguf_adapter_reader.read(tmp_path / "a.gguf", GQA, widen=False)[Q]
    np.testing.assert_array_equal(raw_a, stored[f"{NAME}.lora_a"])
    assert raw_a.dtype == raw_b.dtype == stored[f"{NAME}.lora_a"].dtype


def test_a_scale_is_folded_in_float32(tmp_path: Path) -> None:
    """A half-precision b times a scale is no longer half precision, and nothing is rounded to make it so."""
    halves = {n: t.astype(np.float16) for n, t in PAIR.items()}
    path = write_file(tmp_path / "a.gguf", halves, keys=lambda w: w.add_float32("adapter.lora.alpha", 3.0))
    a, b = gguf_adapter_reader.read(path, GQA, widen=False)[Q]
    assert (a.dtype, b.dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(b, gguf_adapter_reader.read(path, GQA)[Q][1])


def test_alpha_means_what_it_means_to_llama_cpp(tmp_path: Path) -> None:
    """0.0 or absent: b as stored. Anything else: b times alpha / rank."""
    scaled = write_file(tmp_path / "16.gguf", keys=lambda w: w.add_float32("adapter.lora.alpha", 16.0))
    absent = write_file(tmp_path / "none.gguf", keys=lambda w: None)
    zero = write_file(tmp_path / "0.gguf")
    for path, scale in ((scaled, 4.0), (absent, 1.0), (zero, 1.0)):
        np.testing.assert_array_equal(gguf_adapter_reader.read(path, GQA)[Q][1], B * np.float32(scale))


def changed(name: str, values: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
    """PAIR with one tensor replaced, added, or (None) taken away."""
    tensors = {**PAIR, name: values}
    return {n: t for n, t in tensors.items() if t is not None}


def spoiled(value: float) -> NDArray[np.float32]:
    values = A.copy()
    values[1, 2] = value
    return values


@pytest.mark.parametrize(
    ("tensors", "error", "code"),
    [
        (changed(f"{NAME}.lora_a", None), AdapterCorrupt, "incomplete_pair"),
        (changed(f"{NAME}.lora_b", None), AdapterCorrupt, "incomplete_pair"),
        ({}, AdapterCorrupt, "empty_adapter"),
        (changed(f"{NAME}.lora_b", B[:, :3].copy()), AdapterCorrupt, "rank_mismatch"),
        (changed(f"{NAME}.lora_a", A.reshape(2, 2, 64)), AdapterCorrupt, "rank_mismatch"),
        (changed(f"{NAME}.lora_a", spoiled(np.nan)), AdapterCorrupt, "tensor_not_finite"),
        (changed(f"{NAME}.lora_a", spoiled(-np.inf)), AdapterCorrupt, "tensor_not_finite"),
        (changed(f"{NAME}.lora_a", spoiled(np.inf).astype(np.float16)), AdapterCorrupt, "tensor_not_finite"),
        (changed(f"{NAME}.lora_a", A.astype(np.float64)), AdapterUnsupported, "tensor_dtype"),
        (changed(f"{NAME}.lora_a", A.astype(np.int32)), AdapterUnsupported, "tensor_dtype"),
        (changed(f"{NAME}.lora_a", np.zeros((4, 68), np.uint8)), AdapterUnsupported, "tensor_dtype"),
        (changed(f"{NAME}.lora_a", A[:, :32].copy()), AdapterIncompatible, "shape_mismatch"),
        (changed(f"{NAME}.lora_b", B[:32].copy()), AdapterIncompatible, "shape_mismatch"),
        (changed("blk.2.attn_q.weight.lora_a", A), AdapterIncompatible, "layer_mismatch"),
        (changed("blk.00.attn_q.weight.lora_a", A), AdapterUnsupported, "unknown_tensor"),
        (changed("token_embd.weight.lora_a", A), AdapterCorrupt, "incomplete_pair"),
        (changed("blk.0.attn_qkv.weight.lora_a", A), AdapterUnsupported, "unknown_tensor"),
        (changed("blk.0.attn_norm.weight", A[0]), AdapterUnsupported, "unknown_tensor"),
        (changed(f"{NAME}.lora_b.bias", B[0]), AdapterUnsupported, "unknown_tensor"),
    ],
)
def test_bad_tensors(tmp_path: Path, tensors: Mapping[str, NDArray[Any]], error: type[AdapterError], code: str) -> None:
    """Halves without their other, ranks that differ, NaN, other types, widths and names: each its own error."""
    with pytest.raises(error) as caught:
        gguf_adapter_reader.read(write_file(tmp_path / "a.gguf", tensors), GQA)
    assert caught.value.code == code


def huge_alpha(writer: gguf_package.GGUFWriter) -> None:
    writer.add_float32("adapter.lora.alpha", 3e38)


def array_key(writer: gguf_package.GGUFWriter) -> None:
    """Of i32, which llama.cpp does not take."""
    writer.add_array(INVOCATION_KEY, [1, 2])


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"architecture": "qwen2"}, AdapterIncompatible, "architecture_mismatch"),
        ({"general": "model"}, AdapterUnsupported, "not_a_lora"),
        ({"adapter": "control_vector"}, AdapterUnsupported, "not_a_lora"),
        ({"keys": lambda w: w.add_uint32("adapter.lora.alpha", 16)}, AdapterCorrupt, "bad_alpha"),
        ({"keys": lambda w: w.add_float64("adapter.lora.alpha", 0.0)}, AdapterCorrupt, "bad_alpha"),
        ({"keys": lambda w: w.add_string("adapter.lora.alpha", "16")}, AdapterCorrupt, "bad_alpha"),
        ({"keys": lambda w: w.add_float32("adapter.lora.alpha", np.nan)}, AdapterCorrupt, "bad_alpha"),
        ({"keys": lambda w: w.add_float32("adapter.lora.alpha", np.inf)}, AdapterCorrupt, "bad_alpha"),
        ({"keys": huge_alpha, "tensors": changed(f"{NAME}.lora_b", B * 4)}, AdapterUnsupported, "scale_overflow"),
        ({"keys": array_key}, AdapterCorrupt, "bad_invocation"),
        ({"keys": lambda w: w.add_uint32(INVOCATION_KEY, 7)}, AdapterCorrupt, "bad_invocation"),
    ],
)
def test_bad_keys(tmp_path: Path, fields: dict[str, Any], error: type[AdapterError], code: str) -> None:
    """Another architecture or kind, an alpha that ends the process or is no number, an odd invocation: all errors."""
    with pytest.raises(error) as caught:
        gguf_adapter_reader.read(write_file(tmp_path / "a.gguf", **fields), GQA)
    assert caught.value.code == code


def test_truncation(tmp_path: Path) -> None:
    """Cut anywhere, within the header, at a tensor's first or last byte, the file is corrupt."""
    path = write_file(tmp_path / "a.gguf")
    whole, header = path.read_bytes(), read_header(path)
    ends = [t.offset + t.nbytes for t in header.tensors.values()]
    starts = [t.offset for t in header.tensors.values()]
    cuts = {0, 3, 4, 23, 24, header.data_offset // 2, header.data_offset - 1, *starts, *(e - 1 for e in ends)}
    for cut in sorted(cuts | {starts[1] - 1, starts[1] + 1}):
        path.write_bytes(whole[:cut])
        with pytest.raises(AdapterCorrupt):
            gguf_adapter_reader.read(path, GQA)


def test_rank_zero(tmp_path: Path) -> None:
    """A rank of 0, which gguf-py does not write, is corrupt."""
    path = write_file(tmp_path / "a.gguf")
    old, new = struct.pack("<IQQ", 2, 64, 4), struct.pack("<IQQ", 2, 64, 0)
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(AdapterCorrupt):
        gguf_adapter_reader.read(path, GQA)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that is gone after the header was read is an error, not the end of the process."""
    path = write_file(tmp_path / "a.gguf")
    header = read_header(path)
    path.write_bytes(path.read_bytes()[: header.data_offset + 8])
    monkeypatch.setattr(gguf_adapter_reader, "read_header", lambda path, error: header)
    with pytest.raises(AdapterCorrupt):
        gguf_adapter_reader.read(path, GQA)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    """Neither is an adapter, and neither is a crash."""
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises((AdapterCorrupt, StorageError)):
            gguf_adapter_reader.read(path, GQA)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4), st.data())
def test_damaged_bytes(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Whatever a few bytes are changed to, the result is finite factors of the base's widths or an AdapterError."""
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    gguf_writer.write(random_adapter(GQA, targets=[Q], ranks=(2,)), GQA, path, provenance={})
    damaged = bytearray(path.read_bytes())
    header = read_header(path).data_offset
    for position, value in changes:
        # mostly the header, where the structure is
        damaged[position % (header if data.draw(st.booleans()) else len(damaged))] = value
    path.write_bytes(damaged)
    try:
        found = gguf_adapter_reader.read(path, GQA)
    except AdapterError:
        return
    for target, (a, b) in found.items():
        assert a.shape == (len(a), target.module.in_features(GQA))
        assert b.shape == (target.module.out_features(GQA), len(a))
        assert np.isfinite(a).all() and np.isfinite(b).all()
