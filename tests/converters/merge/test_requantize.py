"""Rows back into stored types: as the gguf package, as llama.cpp, as the reference of each rounding."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from edgelora_converters.merge.requantize import FLOATS, GGML, WRITABLE, requantised
from edgelora_models.gguf_header import read_header
from edgelora_models.gguf_types import GGML_TYPES
from edgelora_models.shape import LlamaShape
from tests.support.bases import MIN_VOCAB, write_tiny_gguf

ROWS = np.random.default_rng(4).standard_normal((6, 512)).astype(np.float32)
SHAPE = LlamaShape(layers=1, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=256, vocab=MIN_VOCAB, tied=False)
FTYPES = {"Q2_K": 10, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30}
"""A file type whose attn_output or ffn_gate is of that type."""


@pytest.mark.parametrize("kind", sorted(FLOATS - {"F64"}))
def test_floats_as_the_gguf_package(kind: str) -> None:
    """Every rounding is to nearest, ties to even, as the gguf package's."""
    stored = GGMLQuantizationType[kind]
    ties = np.float32(1) + np.arange(512, dtype=np.float32) * np.float32(2**-9)
    rows = np.vstack([ROWS, ties])
    assert requantised(rows, kind).tobytes() == quantize(rows, stored).tobytes()


@pytest.mark.parametrize("kind", sorted(WRITABLE - {"F64"}))
def test_what_is_stored_is_near(kind: str) -> None:
    """Dequantized again the rows are within what the type's bits allow."""
    stored = requantised(ROWS, kind)
    raw = np.ascontiguousarray(stored).view(np.uint8).reshape(len(ROWS), -1)
    back = dequantize(raw, GGMLQuantizationType[kind])
    error = float(np.linalg.norm(back - ROWS) / np.linalg.norm(ROWS))
    bits = {"F32": 1e-9, "F16": 1e-3, "BF16": 8e-3, "Q8_0": 0.01, "Q2_K": 0.35, "Q3_K": 0.2}
    assert error <= bits.get(kind, 0.12)


@pytest.mark.parametrize("kind", FTYPES)
def test_ggml_rows_are_llama_cpps_file(tmp_path: Path, kind: str) -> None:
    """Row by row ggml gives the bytes that llama.cpp's own quantizer writes for the whole file."""
    assert kind in GGML
    source = write_tiny_gguf(tmp_path / "f32.gguf", SHAPE, seed=1)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = FTYPES[kind], 1
    target = tmp_path / "q.gguf"
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) == 0
    header, wide = read_header(target), read_header(source)
    names = [n for n, tensor in header.tensors.items() if GGML_TYPES[tensor.type].name == kind]
    assert names
    for name in names[:2]:
        tensor, plain = header.tensors[name], wide.tensors[name]
        rows = np.frombuffer(source.read_bytes(), np.float32, plain.nbytes // 4, plain.offset)
        stored = requantised(np.ascontiguousarray(rows.reshape(plain.shape[::-1])), kind)
        assert stored.tobytes() == target.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]


def test_f64_is_itself() -> None:
    """A folder in F64 stays one."""
    assert requantised(ROWS, "F64").tobytes() == ROWS.astype(np.float64).tobytes()


@pytest.mark.parametrize("kind", sorted(GGML))
def test_many_rows_are_each_row_alone(kind: str) -> None:
    """Rows shared out to threads have the bytes of one row after another."""
    rows = np.random.default_rng(5).standard_normal((150, 256)).astype(np.float32)
    alone = b"".join(requantised(rows[i : i + 1], kind).tobytes() for i in range(len(rows)))
    assert requantised(rows, kind).tobytes() == alone
