"""The kernel's layout: every factor as it was, where the kernel wants it; whatever is wrong with a file is an error."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from edgelora_converters.convert.convert import convert
from edgelora_converters.convert.verify import LIMIT, verify_mapped
from edgelora_converters.gguf import adapter_reader as gguf_adapter_reader
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, Target
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_converters.mapped import source as mapped_source
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.tensors.dtypes import stored, widened
from edgelora_converters.tensors.row_order import interleave
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterIncompatible, AdapterUnsupported, StorageError
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.gguf_header import read_header
from edgelora_models.modules import BY_GGUF, EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape
from tests.support.adapters import TINY, write_peft
from tests.support.fuzz import mutations
from tests.support.lora import GQA, WIDE_HEADS, full_adapter, random_adapter, shaped_adapters

Q = Target(0, BY_GGUF["attn_q"])
A = np.linspace(-1, 1, 4 * 64, dtype=np.float32).reshape(4, 64)
HEAD_B = np.zeros((4, GQA.vocab), np.float32)
PAIR: dict[str, NDArray[Any]] = {"blk.0.attn_q.a": A, "blk.0.attn_q.b": A.copy()}
Keys = Callable[[gguf_package.GGUFWriter], None]


def written(folder: Path, adapter: LoraAdapter, shape: LlamaShape = GQA) -> Path:
    path = folder / "a.lora"
    mapped_writer.write(adapter, shape, path, provenance={"converter_version": "1"})
    return path


def write_file(
    path: Path,
    tensors: dict[str, NDArray[Any]] = PAIR,
    *,
    architecture: str = mapped_writer.ARCHITECTURE,
    kind: str = mapped_writer.KIND,
    layout: Any = 1,
    scales: Any = (2.0,),
    alignment: int = 64,
) -> Path:
    """A file of this kind with anything in it, sound as GGUF."""
    writer = gguf_package.GGUFWriter(path, architecture)
    writer.add_string("general.type", kind)
    writer.add_custom_alignment(alignment)
    writer.add_uint32("edgelora.layout", layout)
    writer.add_array("edgelora.scales", list(scales))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
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
    """Bit for bit: a as it was, b transposed and in llama.cpp's rows, the scale apart, everything aligned."""
    shape, adapter = case
    path = written(tmp_path_factory.mktemp("mapped"), adapter, shape)
    found = mapped_reader.read(path, shape)
    assert found.pairs.keys() == adapter.pairs.keys()
    for target, stored_pair in found.pairs.items():
        pair = adapter.pairs[target]
        np.testing.assert_array_equal(stored_pair.a, pair.a)
        np.testing.assert_array_equal(stored_pair.b, interleave(pair.b, target.module.rotary_heads(shape)).T)
        assert stored_pair.scale == np.float32(pair.scale)
        assert stored_pair.a.ctypes.data % 64 == stored_pair.b.ctypes.data % 64 == 0
        assert stored_pair.a.flags.c_contiguous and stored_pair.b.flags.c_contiguous
        assert not stored_pair.a.flags.owndata and not stored_pair.b.flags.writeable


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_16_bit_factors_take_16_bits(tmp_path: Path, kind: Any) -> None:
    """Half the bytes, nothing rounded: not even a scale that no float16 times float16 could hold."""
    wide = random_adapter(GQA, scales=(1 / 3,))
    small = np.float32(2.0**-16)  # where bfloat16 has more to say than float16
    pairs = {
        t: replace(p, a=widened(stored(p.a * small, kind)), b=widened(stored(p.b * small, kind)))
        for t, p in wide.pairs.items()
    }
    adapter = replace(wide, pairs=pairs)
    found = mapped_reader.read(written(tmp_path, adapter), GQA)
    assert sum(p.a.nbytes + p.b.nbytes for p in found.pairs.values()) == 2 * adapter.parameters
    assert {p.a.dtype.name for p in found.pairs.values()} == {"float16" if kind == "F16" else "uint16"}
    assert verify_mapped(tmp_path / "a.lora", adapter, GQA).worst < LIMIT / 10


@pytest.mark.parametrize(("dtype", "size"), [("F32", 4), ("F16", 2), ("BF16", 2)])
def test_a_conversion_keeps_what_was_trained(tmp_path: Path, dtype: str, size: int) -> None:
    """From a PEFT folder: as many bytes in memory as its tensors take on disk."""
    source = write_peft(tmp_path / "peft", TINY, dtype=dtype, alpha=5, rank=3)
    base = BaseFingerprint("llama", TINY, vocabulary="a" * 64, template="b" * 64)
    report = convert(source, tmp_path / "a.lora", to="mapped", base=base)
    assert report.memory_bytes == size * report.parameters
    assert report.worst < LIMIT / 10


def test_factors_lie_in_the_order_of_use(tmp_path: Path) -> None:
    """Layer by layer, q k v o gate up down, a before b: a step walks forward through the file."""
    names = list(read_header(written(tmp_path, random_adapter(GQA))).tensors)
    modules = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    assert names == [f"blk.{n}.{module}.{half}" for n in range(GQA.layers) for module in modules for half in "ab"]


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path) -> None:
    """Conversions can be compared by digest."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        written(folder, random_adapter(GQA))
    assert (one / "a.lora").read_bytes() == (two / "a.lora").read_bytes()


def test_neither_reader_takes_the_other_for_its_own(tmp_path: Path) -> None:
    """A mapped file is no llama.cpp adapter, and a llama.cpp adapter is no mapped file."""
    path = written(tmp_path, random_adapter(GQA))
    gguf_writer.write(random_adapter(GQA), GQA, tmp_path / "a.gguf", provenance={})
    with pytest.raises(AdapterUnsupported, match=r"general\.type"):
        gguf_adapter_reader.read(path, GQA)
    with pytest.raises(AdapterUnsupported, match=r"general\.type"):
        mapped_reader.read(tmp_path / "a.gguf", GQA)


def test_a_scale_beyond_float32_is_refused(tmp_path: Path) -> None:
    """As the folding writers refuse it, so that an adapter fits every format or none."""
    adapter = random_adapter(GQA, scales=(1e38,))
    large = replace(adapter, pairs={t: replace(p, b=p.b * 1000) for t, p in adapter.pairs.items()})
    for write in (mapped_writer.write, gguf_writer.write):
        with pytest.raises(AdapterUnsupported, match="not finite in float32"):
            write(large, GQA, tmp_path / "a", provenance={})


@pytest.mark.parametrize("shape", [WIDE_HEADS, replace(GQA, layers=1)])
def test_another_base(tmp_path: Path, shape: LlamaShape) -> None:
    """Other widths, or fewer layers: the adapter does not fit, and nothing is mapped for it."""
    with pytest.raises(AdapterIncompatible):
        mapped_reader.read(written(tmp_path, random_adapter(GQA)), shape)


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"kind": "adapter"}, AdapterUnsupported, "not_mapped"),
        ({"architecture": "llama"}, AdapterUnsupported, "not_mapped"),
        ({"layout": 3}, AdapterUnsupported, "mapped_layout"),
        ({"alignment": 32}, AdapterCorrupt, "bad_alignment"),
        ({"scales": [1.0, 2.0]}, AdapterCorrupt, "bad_scales"),
        ({"scales": [float("nan")]}, AdapterCorrupt, "bad_scales"),
        ({"scales": [float("-inf")]}, AdapterCorrupt, "bad_scales"),
        ({"scales": [1]}, AdapterCorrupt, "bad_scales"),
        ({"tensors": {"blk.0.attn_q.a": A}, "scales": [1.0]}, AdapterCorrupt, "incomplete_pair"),
        ({"tensors": {}, "scales": [1.0]}, AdapterCorrupt, "bad_scales"),
        ({"tensors": {**PAIR, "blk.0.attn_k.a": A}, "scales": [1.0]}, AdapterCorrupt, "incomplete_pair"),
        ({"tensors": {"blk.0.attn_q.b": A, "blk.0.attn_q.a": A}}, AdapterCorrupt, "incomplete_pair"),
        ({"tensors": {**PAIR, "blk.0.attn_q.bias": A[0]}}, AdapterCorrupt, "unknown_tensor"),
        ({"tensors": {"output.a": A, "output.b": HEAD_B}}, AdapterCorrupt, "unknown_tensor"),
        ({"layout": 2, "tensors": {"output.a": A, "output.b": A}}, AdapterIncompatible, "shape_mismatch"),
        ({"layout": 2, "tensors": {"token_embd.a": A, "token_embd.b": A}}, AdapterCorrupt, "rank_mismatch"),
        ({"layout": 2, "tensors": {"token_embd.a": A.T, "token_embd.b": A}}, AdapterIncompatible, "shape_mismatch"),
        ({"layout": 2, "tensors": {**PAIR, "blk.0.attn_q.m": A[0]}}, AdapterCorrupt, "unknown_tensor"),
        ({"layout": 2, "tensors": {**PAIR, "blk.0.attn_q.bias": A[0, :3]}}, AdapterCorrupt, "bad_rows"),
        ({"layout": 2, "tensors": {**PAIR, "blk.0.attn_q.bias": A[0].astype("f2")}}, AdapterCorrupt, "bad_rows"),
        ({"layout": 2, "tensors": {**PAIR, "blk.1.attn_q.row_scale": A[0]}}, AdapterCorrupt, "incomplete_pair"),
        ({"layout": 2, "tensors": {"blk.0.attn_q.row_scale": A[0], **PAIR}}, AdapterCorrupt, "incomplete_pair"),
        ({"tensors": {"blk.0.attn_q.a": A, "blk.1.attn_q.b": A}}, AdapterCorrupt, "incomplete_pair"),
        ({"tensors": {"blk.0.attn_z.a": A, "blk.0.attn_z.b": A}}, AdapterCorrupt, "unknown_tensor"),
        ({"tensors": {"blk.0.attn_q.a": A, "blk.0.attn_q.b": A[:3]}}, AdapterCorrupt, "rank_mismatch"),
        ({"tensors": {"blk.0.attn_q.a": A[0], "blk.0.attn_q.b": A}}, AdapterCorrupt, "rank_mismatch"),
        ({"tensors": {k: v.astype(np.float64) for k, v in PAIR.items()}}, AdapterCorrupt, "tensor_dtype"),
        ({"tensors": {"blk.0.attn_q.a": A[:, :63], "blk.0.attn_q.b": A}}, AdapterIncompatible, "shape_mismatch"),
        ({"tensors": {"blk.7.attn_q.a": A, "blk.7.attn_q.b": A}}, AdapterIncompatible, "layer_mismatch"),
    ],
)
def test_bad_files(tmp_path: Path, fields: dict[str, Any], error: type[AdapterError], code: str) -> None:
    """Each is refused by its header alone, with its own code."""
    path = write_file(tmp_path / "a.lora", **fields)
    with pytest.raises(error) as caught:
        mapped_reader.read(path, GQA)
    assert caught.value.code == code and caught.value.remedy


@pytest.mark.parametrize("shape", [GQA, WIDE_HEADS], ids=["untied", "tied"])
def test_every_part_comes_back(tmp_path: Path, shape: LlamaShape) -> None:
    """Row scales and biases in llama.cpp's rows, bit for bit; the embedding's a with a row for each token; aligned."""
    adapter = full_adapter(shape)
    found = mapped_reader.read(written(tmp_path, adapter, shape), shape)
    modules = [target.module for target in found.pairs]
    assert (modules[0], modules[-1]) == (EMBEDDING, HEAD)
    assert found.pairs.keys() == adapter.pairs.keys()
    for target, have in found.pairs.items():
        pair, heads = adapter.pairs[target], target.module.rotary_heads(shape)
        np.testing.assert_array_equal(have.a, pair.a.T if target.module == EMBEDDING else pair.a)
        np.testing.assert_array_equal(have.b, interleave(pair.b, heads).T)
        for rows, source in ((have.row_scale, adapter.row_scales.get(target)), (have.bias, pair.bias)):
            assert (rows is None) == (source is None)
            if rows is not None and source is not None:
                np.testing.assert_array_equal(rows, interleave(source[:, None], heads)[:, 0])
                assert rows.ctypes.data % 64 == 0 and not rows.flags.writeable
    assert verify_mapped(tmp_path / "a.lora", adapter, shape).worst < LIMIT / 10


@pytest.mark.parametrize(("adapter", "layout"), [(random_adapter(GQA), 1), (full_adapter(GQA), 2)])
def test_plain_adapters_keep_the_first_layout(tmp_path: Path, adapter: LoraAdapter, layout: int) -> None:
    """So that what was made before is what would be made now, and older readers know it."""
    assert read_header(written(tmp_path, adapter)).metadata["edgelora.layout"] == layout


def test_a_source_again_but_for_dora(tmp_path: Path) -> None:
    """Biases, embedding and head come back as they were trained; magnitudes are not in the file, and that is said."""
    whole = full_adapter(GQA)
    with pytest.raises(AdapterUnsupported) as caught:
        mapped_source.read(written(tmp_path, whole), GQA)
    assert caught.value.code == "dora"
    pairs = {target: replace(pair, magnitude=None) for target, pair in whole.pairs.items()}
    plain = replace(whole, pairs=pairs, row_scales={})
    for target, pair in mapped_source.read(written(tmp_path, plain), GQA).pairs.items():
        source = plain.pairs[target]
        np.testing.assert_array_equal(pair.a, source.a)
        np.testing.assert_array_equal(pair.b, source.b)
        assert (pair.bias is None) == (source.bias is None)
        if pair.bias is not None and source.bias is not None:
            np.testing.assert_array_equal(pair.bias, source.bias)


def test_truncation(tmp_path: Path) -> None:
    """A file cut anywhere is refused before anything is mapped that is not there."""
    data = written(tmp_path, random_adapter(GQA, targets=[Q])).read_bytes()
    cut = tmp_path / "cut.lora"
    for size in [*range(0, 400, 7), len(data) - 64, len(data) - 1]:
        cut.write_bytes(data[:size])
        with pytest.raises(AdapterCorrupt):
            mapped_reader.read(cut, GQA)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    """Both are errors of the tree."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(AdapterCorrupt):
            mapped_reader.read(path, GQA)


def test_a_file_that_shrinks_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size that was checked is the size that is mapped, or the file is refused."""
    path = written(tmp_path, random_adapter(GQA))
    real = mapped_reader.map_bytes

    def shrinking(file: Any) -> Any:
        with path.open("rb+") as other:
            other.truncate(4096)
        return real(file)

    monkeypatch.setattr(mapped_reader, "map_bytes", shrinking)
    with pytest.raises(AdapterCorrupt, match="changed"):
        mapped_reader.read(path, GQA)


def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error is the disk's, not the adapter's."""
    path = written(tmp_path, random_adapter(GQA))

    def failing(_: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(mapped_reader, "map_bytes", failing)
    with pytest.raises(StorageError):
        mapped_reader.read(path, GQA)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_headers(tmp_path: Path, seed: int) -> None:
    """Whatever happened to a header: an error of the tree, or factors of the base's shapes that can all be read."""
    targets = [Q, Target(1, BY_GGUF["ffn_down"]), Target(None, EMBEDDING)]
    adapter = full_adapter(GQA) if seed % 2 else random_adapter(GQA, targets=targets[:2])
    pairs = {target: pair for target, pair in adapter.pairs.items() if target in targets}
    row_scales = {target: rows for target, rows in adapter.row_scales.items() if target in targets}
    path = written(tmp_path, replace(adapter, pairs=pairs, row_scales=row_scales))
    data, header = path.read_bytes(), read_header(path)
    damaged = tmp_path / "damaged.lora"
    survived = 0
    for mutant in mutations(data, seed=seed, count=150, within=header.data_offset):
        damaged.write_bytes(mutant)
        try:
            found = mapped_reader.read(damaged, GQA)
        except AdapterError as error:
            assert error.code and error.remedy
            continue
        survived += 1
        for target, pair in found.pairs.items():
            width, rank = pair.a.shape if target.module == EMBEDDING else pair.a.shape[::-1]
            assert width == target.module.in_features(GQA)
            assert pair.b.shape == (rank, target.module.out_features(GQA))
            assert all(rows is None or rows.shape == pair.b.shape[1:] for rows in (pair.row_scale, pair.bias))
            pair.a.view(np.uint8).max(), pair.b.view(np.uint8).max()
    assert survived < 150


def test_counts_that_lie(tmp_path: Path) -> None:
    """A header that claims more tensors than the file can hold is refused at once."""
    path = written(tmp_path, random_adapter(GQA, targets=[Q]))
    data = bytearray(path.read_bytes())
    data[8:16] = struct.pack("<Q", 1 << 60)
    path.write_bytes(data)
    with pytest.raises(AdapterCorrupt):
        mapped_reader.read(path, GQA)
