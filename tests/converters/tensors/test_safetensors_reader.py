"""safetensors_file: every file is either read exactly or refused with the tensor named."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from edgelora_converters.tensors import safetensors_reader
from edgelora_converters.tensors.dtypes import widened_from
from edgelora_converters.tensors.safetensors_reader import FACTORS, ITEMSIZE, open_safetensors
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterUnsupported, BaseError, EdgeloraError
from tests.support.adapters import decode, write_raw, write_safetensors
from tests.support.fuzz import mutations


def header_of(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_values_are_widened_exactly(tmp_path: Path, dtype: str) -> None:
    """Each readable dtype comes back as the float32 numbers it stores, shapes kept."""
    values = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    path = write_safetensors(tmp_path / "t.safetensors", {"a": values, "b": values[0]}, dtype=dtype)
    with open_safetensors(path) as file:
        assert file.names == ("a", "b")
        assert file.tensors["a"].dtype == dtype
        np.testing.assert_array_equal(file.read_f32("a"), decode(values, dtype))
        assert file.read_f32("b").shape == (3,)
        assert file.read_f32("a").dtype == np.float32


def test_reads_what_the_reference_library_writes(tmp_path: Path) -> None:
    """Files of the safetensors package read the same, metadata included, and the array outlives the file."""
    values = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.ones((1, 4), np.float16)}
    save_file(values, tmp_path / "t.safetensors", metadata={"format": "pt"})
    with open_safetensors(tmp_path / "t.safetensors") as file:
        arrays = {name: file.read_f32(name) for name in file.names}
        assert file.metadata == {"format": "pt"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, values[name].astype(np.float32))


@pytest.mark.parametrize("dtype", ["F64", "F8_E4M3", "F8_E5M2"])
def test_adapters_may_have_further_dtypes(tmp_path: Path, dtype: str) -> None:
    """Where FACTORS are readable: FP8 widened, F64 rounded once."""
    raw = np.arange(0, 48, dtype=np.uint8) if dtype.startswith("F8") else np.linspace(-1, 1, 6).view(np.uint8)
    path = write_raw(
        tmp_path / "t", header_of(a=entry(dtype, (2, raw.size // 2 // ITEMSIZE[dtype]), (0, 48))), raw.tobytes()
    )
    with open_safetensors(path, readable=FACTORS) as file:
        np.testing.assert_array_equal(file.read_f32("a").reshape(-1), widened_from(raw, dtype))


@pytest.mark.parametrize(
    ("dtype", "code"), [("F8_E4M3", 0x7F), ("F8_E4M3", 0xFF), ("F8_E5M2", 0x7C), ("F8_E5M2", 0xFE)]
)
def test_fp8_codes_without_a_number_are_refused(tmp_path: Path, dtype: str, code: int) -> None:
    """NaN of both kinds, infinity of e5m2."""
    path = write_raw(tmp_path / "t", header_of(a=entry(dtype, (4,), (0, 4))), bytes([1, 2, code, 3]))
    with open_safetensors(path, readable=FACTORS) as file, pytest.raises(AdapterCorrupt, match="'a' holds NaN"):
        file.read_f32("a")


@pytest.mark.parametrize(
    ("value", "code"), [(1e39, "tensor_range"), (np.nan, "tensor_not_finite"), (-np.inf, "tensor_not_finite")]
)
def test_float64_must_fit_float32(tmp_path: Path, value: float, code: str) -> None:
    """A finite value above the range is refused as such, not as infinity."""
    path = write_safetensors(tmp_path / "t", {"a": np.array([1.0, value])}, dtype="F64")
    with open_safetensors(path, readable=FACTORS) as file, pytest.raises(AdapterError) as caught:
        file.read_f32("a")
    assert (caught.value.code, caught.value.param) == (code, "a")


@pytest.mark.parametrize("dtype", ["F64", "I32", "F8_E4M3"])
def test_other_dtypes_are_refused_when_read(tmp_path: Path, dtype: str) -> None:
    """A dtype that was not asked for is refused, naming the tensor, but does not spoil the others."""
    size = {"F64": 16, "I32": 8, "F8_E4M3": 2}[dtype]
    path = write_raw(tmp_path / "t", header_of(good=entry(), odd=entry(dtype, (2,), (8, 8 + size))), b"\0" * (8 + size))
    with open_safetensors(path) as file:
        assert file.read_f32("good").tolist() == [0.0, 0.0]
        with pytest.raises(AdapterUnsupported, match="odd") as caught:
            file.read_f32("odd")
    assert caught.value.param == "odd"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_non_finite_values_are_refused(tmp_path: Path, bad: float, dtype: str) -> None:
    """One NaN or infinity refuses the tensor by name."""
    values = np.zeros((4, 4), np.float32)
    values[2, 3] = bad
    path = write_safetensors(tmp_path / "t", {"q": values}, dtype=dtype)
    with open_safetensors(path) as file, pytest.raises(AdapterCorrupt, match="'q' holds NaN") as caught:
        file.read_f32("q")
    assert caught.value.code == "tensor_not_finite"


BROKEN = {
    "no brace": (b" {}", b""),
    "not json": (b'{"a":', b""),
    "a list": (b"[]", b""),
    "not utf-8": (b'{"\xff":1}', b""),
    "duplicate tensor": (b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 8),
    "duplicate field": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "huge number": (b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 5000), b"\0" * 8),
    "NaN": (b'{"a":NaN}', b""),
    "lone surrogate": (b'{"\\ud800":%s}' % json.dumps(entry()).encode(), b"\0" * 8),
    "entry is a list": (header_of(a=[1]), b""),
    "extra field": (header_of(a=entry() | {"x": 1}), b"\0" * 8),
    "no dtype": (header_of(a={"shape": [2], "data_offsets": [0, 8]}), b"\0" * 8),
    "negative shape": (header_of(a=entry(shape=(-2,))), b"\0" * 8),
    "float shape": (header_of(a=entry(shape=(2.0,))), b"\0" * 8),
    "bool shape": (header_of(a=entry(shape=(True, 2))), b"\0" * 8),
    "shape too long": (header_of(a=entry(shape=(1,) * 9 + (2,))), b"\0" * 8),
    "overflowing shape": (header_of(a=entry(shape=(2**62, 4))), b"\0" * 8),
    "three offsets": (header_of(a=entry(offsets=(0, 8, 16))), b"\0" * 8),
    "offsets backwards": (header_of(a=entry(offsets=(8, 0))), b"\0" * 8),
    "size and shape differ": (header_of(a=entry(shape=(3,))), b"\0" * 8),
    "beyond the file": (header_of(a=entry()), b"\0" * 7),
    "data left over": (header_of(a=entry()), b"\0" * 9),
    "gap": (header_of(a=entry(), b=entry(offsets=(12, 20))), b"\0" * 20),
    "overlap": (header_of(a=entry(), b=entry(offsets=(4, 12))), b"\0" * 12),
    "same bytes twice": (header_of(a=entry(), b=entry()), b"\0" * 8),
    "metadata of numbers": (header_of(__metadata__={"a": 1}, a=entry()), b"\0" * 8),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_headers_are_refused(tmp_path: Path, name: str) -> None:
    """Whatever breaks the format's rules is AdapterCorrupt when the file is opened."""
    path = write_raw(tmp_path / "t", *BROKEN[name])
    with pytest.raises(AdapterCorrupt):
        open_safetensors(path)


def test_no_metadata_may_be_null(tmp_path: Path) -> None:
    """MLX's writer, and so mlx-lm's trainer, puts null where there is none."""
    with open_safetensors(write_raw(tmp_path / "t", header_of(__metadata__=None, a=entry()), b"\0" * 8)) as file:
        assert file.metadata == {} and list(file.names) == ["a"]


def test_unknown_dtype_is_unsupported(tmp_path: Path) -> None:
    """A dtype of a later format version is named together with its tensor."""
    path = write_raw(tmp_path / "t", header_of(new=entry("F4")), b"\0" * 8)
    with pytest.raises(AdapterUnsupported, match=r"'new'.*'F4'"):
        open_safetensors(path)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0", b"\xff" * 8 + b"{}", b"\x40\0\0\0\0\0\0\0{}"])
def test_short_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """Files too short for their own header."""
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(AdapterCorrupt):
        open_safetensors(tmp_path / "t")


def test_header_cap_is_the_callers(tmp_path: Path) -> None:
    """A header over the cap is refused; a base's reader may allow more and have its own error class."""
    path = write_raw(tmp_path / "t", header_of(a=entry()) + b" " * 2000, b"\0" * 8)
    with pytest.raises(BaseError, match="more than the 1000 allowed"):
        open_safetensors(path, max_header_bytes=1000, corrupt=BaseError, unsupported=BaseError)
    with open_safetensors(path, max_header_bytes=4000) as file:
        assert file.names == ("a",)


def test_a_file_that_shrinks_while_open_is_an_error(tmp_path: Path) -> None:
    """A file cut after it was checked gives an error and not a signal."""
    path = write_safetensors(tmp_path / "t", {"a": np.zeros((1000,), np.float32)})
    with open_safetensors(path) as file:
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(AdapterCorrupt, match="ends within the tensor 'a'"):
            file.read_f32("a")


def test_rows_are_read_alone(tmp_path: Path) -> None:
    """Any range of rows is that part of the whole; what the tensor does not have is a caller's mistake."""
    values = np.random.default_rng(1).standard_normal((7, 3, 2)).astype(np.float32)
    path = write_safetensors(
        tmp_path / "t", {"x": values[0, 0, :1], "a": values, "scalar": np.array(1.0)}, dtype="BF16"
    )
    with open_safetensors(path) as file:
        for start, stop in ((0, 7), (2, 5), (6, 7), (3, 3)):
            np.testing.assert_array_equal(file.rows_f32("a", start, stop), decode(values, "BF16")[start:stop])
        for name, start, stop in (("a", 5, 8), ("a", -1, 2), ("a", 4, 3), ("scalar", 0, 1)):
            with pytest.raises(IndexError):
                file.rows_f32(name, start, stop)


def test_values_beyond_one_block_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are a matter of memory only: a small block gives the same array, and finds a NaN in the last one."""
    values = np.random.default_rng(2).standard_normal((13, 5)).astype(np.float32)
    path = write_safetensors(tmp_path / "t", {"a": values}, dtype="F16")
    monkeypatch.setattr(safetensors_reader, "_BLOCK", 7)
    with open_safetensors(path) as file:
        np.testing.assert_array_equal(file.read_f32("a"), decode(values, "F16"))
    values[-1, -1] = np.nan
    with open_safetensors(write_safetensors(path, {"a": values})) as file, pytest.raises(AdapterCorrupt):
        file.read_f32("a")


def test_a_gigabyte_is_never_in_memory(tmp_path: Path) -> None:
    """A frozen copy of a head as PEFT saves it, read by rows beside a factor: the peak is the rows and a block."""
    shapes = {"lora_A": (16, 4096), "base_layer": (128_256, 4096)}
    sizes = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
    header = header_of(
        lora_A=entry("BF16", shapes["lora_A"], (0, sizes["lora_A"])),
        base_layer=entry("BF16", shapes["base_layer"], (sizes["lora_A"], sum(sizes.values()))),
    )
    path = write_raw(tmp_path / "t", header, b"")
    os.truncate(path, path.stat().st_size + sum(sizes.values()))  # a hole: no disk is taken
    tracemalloc.start()
    try:
        with open_safetensors(path) as file:
            assert file.read_f32("lora_A").shape == shapes["lora_A"]
            for start in (0, 64_000, 128_000):
                assert not file.rows_f32("base_layer", start, start + 256).any()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    """What is not a regular file is refused before it is opened."""
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(AdapterCorrupt):
            open_safetensors(path)


@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=4), dtype=st.sampled_from(["F32", "F16", "BF16"])
)
def test_any_valid_file_is_read(shapes: list[list[int]], dtype: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Scalars, empty and odd shapes round-trip through the writer."""
    rng = np.random.default_rng(len(shapes))
    tensors = {f"t{i}": rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}
    path = write_safetensors(tmp_path_factory.mktemp("st") / "t", tensors, dtype=dtype)
    with open_safetensors(path) as file:
        for name, values in tensors.items():
            np.testing.assert_array_equal(file.read_f32(name), decode(values, dtype))


def test_mutated_files_never_escape_the_error_tree(tmp_path: Path) -> None:
    """Damaged files either read or raise an EdgeloraError, nothing else."""
    values = np.ones((2, 2), np.float32)
    data = write_safetensors(tmp_path / "t", {"a": values, "b": values}, metadata={"format": "pt"}).read_bytes()
    outcomes = [_outcome(tmp_path / "m", mutant) for mutant in mutations(data, seed=1, count=400)]
    assert outcomes.count("refused") > 200
    assert outcomes.count("read") > 5


def _outcome(path: Path, mutant: bytes) -> str:
    path.write_bytes(mutant)
    try:
        with open_safetensors(path) as file:
            for name in file.names:
                file.read_f32(name)
    except EdgeloraError:
        return "refused"
    return "read"


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    """With the command that fetches the file itself."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 1583664\n")
    with pytest.raises(AdapterCorrupt) as caught:
        open_safetensors(path)
    assert caught.value.code == "git_lfs_pointer" and "git lfs pull" in caught.value.remedy
