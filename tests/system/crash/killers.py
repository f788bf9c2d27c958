"""Adapters that have ended libllama's process, that it refuses, or that it takes and computes nonsense with; and what
does the like in the other formats. Each is sound as a container: only what it says is wrong.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
from numpy.typing import NDArray

from tests.support.adapters import peft_config, write_raw
from tests.system.crash.originals import SHAPE, Files, Kind, originals

Tensors = dict[str, NDArray[Any]]
Keys = Callable[[gguf_package.GGUFWriter], None]

_Q = "blk.0.attn_q.weight"


def _factor(rows: int, width: int) -> NDArray[np.float32]:
    return np.linspace(-1, 1, rows * width, dtype=np.float32).reshape(rows, width)


def _pair(name: str = _Q, *, rank: int = 4, width: int = SHAPE.hidden, out: int = SHAPE.q_width) -> Tensors:
    return {f"{name}.lora_a": _factor(rank, width), f"{name}.lora_b": _factor(out, rank)}


def _with(name: str, values: NDArray[Any] | None) -> Tensors:
    tensors: dict[str, NDArray[Any] | None] = {**_pair(), name: values}
    return {n: t for n, t in tensors.items() if t is not None}


def _spoiled(value: float) -> Tensors:
    values = _factor(4, SHAPE.hidden).copy()
    values[1, 2] = value
    return _with(f"{_Q}.lora_a", values)


def _gguf(
    tensors: Tensors | None = None,
    *,
    architecture: str = "llama",
    general: str = "adapter",
    adapter: str = "lora",
    keys: Keys = lambda writer: writer.add_float32("adapter.lora.alpha", 0.0),
) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.gguf")
        writer = gguf_package.GGUFWriter(path, architecture)
        writer.add_string("general.type", general)
        writer.add_string("adapter.type", adapter)
        keys(writer)
        for name, values in (_pair() if tensors is None else tensors).items():
            kind = gguf_package.GGMLQuantizationType.Q8_0 if values.dtype == np.uint8 else None
            writer.add_tensor(name, values, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return {"a.gguf": path.read_bytes()}


def _patched(old: bytes, new: bytes) -> Files:
    """A plain adapter's bytes, with `old` replaced once: for what gguf-py does not write."""
    data = _gguf()["a.gguf"]
    if data.count(old) < 1 or len(old) != len(new):
        raise ValueError(f"{old!r} is not there, or is replaced by another length")
    return {"a.gguf": data.replace(old, new, 1)}


def _doubled_tensor() -> Files:
    """Two tensors of one name."""
    name = f"{_Q}.lora_".encode()
    return _patched(name + b"b", name + b"a")


def _dimensions(*new: int) -> Files:
    """The first factor's shape, as ggml orders it, replaced by one that its bytes do not have."""
    return _patched(struct.pack("<IQQ", 2, SHAPE.hidden, 4), struct.pack("<IQQ", 2, *new))


_EMBEDDING = {"token_embd.weight.lora_a": _factor(SHAPE.vocab, 4), "token_embd.weight.lora_b": _factor(SHAPE.hidden, 4)}
_ALPHA = "adapter.lora.alpha"
_INVOCATION = "adapter.alora.invocation_tokens"

_GGUF: Mapping[str, Callable[[], Files]] = {
    "alpha-u32": partial(_gguf, keys=lambda w: w.add_uint32(_ALPHA, 16)),
    "alpha-f64": partial(_gguf, keys=lambda w: w.add_float64(_ALPHA, 16.0)),
    "alpha-i32": partial(_gguf, keys=lambda w: w.add_int32(_ALPHA, 16)),
    "alpha-string": partial(_gguf, keys=lambda w: w.add_string(_ALPHA, "16")),
    "alpha-bool": partial(_gguf, keys=lambda w: w.add_bool(_ALPHA, True)),
    "alpha-array": partial(_gguf, keys=lambda w: w.add_array(_ALPHA, [16.0])),
    "alpha-nan": partial(_gguf, keys=lambda w: w.add_float32(_ALPHA, float("nan"))),
    "alpha-infinite": partial(_gguf, keys=lambda w: w.add_float32(_ALPHA, float("inf"))),
    "alpha-huge": partial(_gguf, keys=lambda w: w.add_float32(_ALPHA, 3e38)),
    "alpha-missing": partial(_gguf, keys=lambda w: None),
    "invocation-i32": partial(_gguf, keys=lambda w: w.add_array(_INVOCATION, [1, 2])),
    "invocation-scalar": partial(_gguf, keys=lambda w: w.add_uint32(_INVOCATION, 1)),
    "architecture": partial(_gguf, architecture="qwen2"),
    "general-type": partial(_gguf, general="model"),
    "adapter-type": partial(_gguf, adapter="control_vector"),
    "no-tensors": partial(_gguf, {}),
    "unknown-tensor": partial(_gguf, _with("blk.0.attn_z.weight.lora_a", _factor(4, 64))),
    "no-suffix": partial(_gguf, _with(_Q, _factor(64, 64))),
    "bias": partial(_gguf, _with("blk.0.attn_q.bias", _factor(1, 64)[0])),
    "b-bias": partial(_gguf, _with(f"{_Q}.lora_b.bias", _factor(1, 64)[0])),
    "norm": partial(_gguf, _with("blk.0.attn_norm.weight", np.ones(SHAPE.hidden, np.float32))),
    "norm-alone": partial(_gguf, {"blk.0.attn_norm.weight": np.ones(SHAPE.hidden, np.float32)}),
    "only-a": partial(_gguf, _with(f"{_Q}.lora_b", None)),
    "only-b": partial(_gguf, _with(f"{_Q}.lora_a", None)),
    "narrow": partial(_gguf, _pair(width=SHAPE.hidden // 2)),
    "short": partial(_gguf, _pair(out=SHAPE.q_width // 2)),
    "rank-mismatch": partial(_gguf, _with(f"{_Q}.lora_b", _factor(SHAPE.q_width, 3))),
    "transposed": partial(_gguf, {n: np.ascontiguousarray(t.T) for n, t in _pair().items()}),
    "one-dimension": partial(_gguf, _with(f"{_Q}.lora_a", _factor(1, 64)[0])),
    "three-dimensions": partial(_gguf, {n: t.reshape(2, -1, t.shape[1]) for n, t in _pair().items()}),
    "experts": partial(_gguf, {n: np.stack([t, t]) for n, t in _pair().items()}),
    "layer": partial(_gguf, _pair(f"blk.{SHAPE.layers}.attn_q.weight")),
    "layer-huge": partial(_gguf, _pair("blk.99999999999999999999.attn_q.weight")),
    "layer-negative": partial(_gguf, _pair("blk.-1.attn_q.weight")),
    "fused": partial(_gguf, _pair("blk.0.attn_qkv.weight", out=SHAPE.q_width + 2 * SHAPE.kv_width)),
    "experts-name": partial(_gguf, _pair("blk.0.ffn_down_exps.weight")),
    "f64": partial(_gguf, {n: t.astype(np.float64) for n, t in _pair().items()}),
    "i32": partial(_gguf, {n: t.astype(np.int32) for n, t in _pair().items()}),
    "i8": partial(_gguf, {n: t.astype(np.int8) for n, t in _pair().items()}),
    "q8_0": partial(_gguf, _with(f"{_Q}.lora_a", np.zeros((4, 68), np.uint8))),
    "nan": partial(_gguf, _spoiled(float("nan"))),
    "infinite": partial(_gguf, _spoiled(float("-inf"))),
    "embedding-rank-mismatch": partial(_gguf, {**_EMBEDDING, "token_embd.weight.lora_b": _factor(SHAPE.hidden, 3)}),
    "embedding-narrow": partial(_gguf, {**_EMBEDDING, "token_embd.weight.lora_a": _factor(SHAPE.vocab // 2, 4)}),
    "embedding-transposed": partial(_gguf, {n: np.ascontiguousarray(t.T) for n, t in _EMBEDDING.items()}),
    "head-short": partial(_gguf, _pair("output.weight", out=SHAPE.vocab // 2)),
    "rope-factors": partial(_gguf, _with("rope_freqs.weight", _factor(1, SHAPE.head_dim // 2)[0])),
    "rank-zero": partial(_dimensions, SHAPE.hidden, 0),
    "rank-negative": partial(_dimensions, SHAPE.hidden, (1 << 64) - 1),
    "rank-huge": partial(_dimensions, SHAPE.hidden, 1 << 40),
    "overflowing": partial(_dimensions, 1 << 33, 1 << 31),
    "zero-width": partial(_dimensions, 0, 4),
    "tensor-twice": _doubled_tensor,
    "name-not-utf8": partial(_patched, b"blk.0.attn_q.weight.lora_a", b"blk.0.attn_q.weight.lora\xff\xfe"),
    "name-with-zero": partial(_patched, b"blk.0.attn_q.weight.lora_a", b"blk.0.attn_q.weight.lora_\0"),
    "big-endian": partial(_patched, struct.pack("<I", 3), struct.pack(">I", 3)),
    "version-1": partial(_patched, struct.pack("<I", 3), struct.pack("<I", 1)),
}


def _peft(header: Mapping[str, Any] | bytes, data: bytes = b"", **config: Any) -> Files:
    fields = peft_config(rank=4, alpha=8, targets=["q_proj"]) | config
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with tempfile.TemporaryDirectory() as folder:
        raw = write_raw(Path(folder, "raw"), text, data).read_bytes()
    return {"adapter_config.json": json.dumps(fields).encode(), "adapter_model.safetensors": raw}


def _entries(dtype: str = "F32", itemsize: int = 4, *, overlap: bool = False) -> dict[str, Any]:
    """Entries of q_proj in both layers, one tensor after another, or all of them over the first."""
    found: dict[str, Any] = {}
    at = 0
    for layer in range(SHAPE.layers):
        for side, form in (("A", [4, SHAPE.hidden]), ("B", [SHAPE.q_width, 4])):
            end = at + form[0] * form[1] * itemsize
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight"
            found[name] = {"dtype": dtype, "shape": form, "data_offsets": [at, end]}
            at = 0 if overlap else end
    return found


_BYTES = SHAPE.layers * 4 * (SHAPE.hidden + SHAPE.q_width)
"""Elements of `_entries`."""


def _peft_nan() -> Files:
    return _peft(_entries(), np.full(_BYTES, np.nan, np.float32).tobytes())


def _peft_lies(length: int) -> Files:
    files = dict(originals("peft")[0])
    weights = files["adapter_model.safetensors"]
    return files | {"adapter_model.safetensors": length.to_bytes(8, "little") + weights[8:]}


_PEFT: Mapping[str, Callable[[], Files]] = {
    "nan": _peft_nan,
    "overlap": partial(_peft, _entries(overlap=True), b"\0" * 4 * _BYTES),
    "no-data": partial(_peft, _entries()),
    "unknown-dtype": partial(_peft, _entries("F17"), b"\0" * 4 * _BYTES),
    "integer-dtype": partial(_peft, _entries("I32"), b"\0" * 4 * _BYTES),
    "no-entries": partial(_peft, {}),
    "not-an-object": partial(_peft, b"[1, 2, 3]"),
    "deep": partial(_peft, b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "long-number": partial(_peft, b'{"a": ' + b"9" * 100_000 + b"}"),
    "twice": partial(_peft, b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' * 2 + b'"b":1}'),
    "surrogate": partial(_peft, b'{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
    "header-length-0": partial(_peft_lies, 0),
    "header-length-huge": partial(_peft_lies, (1 << 64) - 1),
    "rank-zero": partial(_peft, _entries(), b"\0" * 4 * _BYTES, r=0),
    "rank-huge": partial(_peft, _entries(), b"\0" * 4 * _BYTES, r=1 << 62),
    "rank-text": partial(_peft, _entries(), b"\0" * 4 * _BYTES, r="4"),
    "alpha-nan": partial(_peft, _entries(), b"\0" * 4 * _BYTES, lora_alpha=float("nan")),
    "slow-pattern": partial(_peft, _entries(), b"\0" * 4 * _BYTES, target_modules="(a+)+(a+)+(a+)+(.*)*(.*)*b"),
    "slow-rank-pattern": partial(_peft, _entries(), b"\0" * 4 * _BYTES, rank_pattern={"((.*)*)*(.*)*z": 4}),
}


def _mlx_config(**fields: Any) -> Files:
    files = dict(originals("mlx")[0])
    config = json.loads(files["adapter_config.json"]) | fields
    return files | {"adapter_config.json": json.dumps(config).encode()}


def _mlx_parameters(**fields: Any) -> Files:
    parameters = json.loads(originals("mlx")[0]["adapter_config.json"])["lora_parameters"]
    return _mlx_config(lora_parameters=parameters | fields)


_MLX: Mapping[str, Callable[[], Files]] = {
    "scale-nan": partial(_mlx_parameters, scale=float("nan")),
    "scale-huge": partial(_mlx_parameters, scale=1e308),
    "scale-text": partial(_mlx_parameters, scale="1"),
    "rank-huge": partial(_mlx_parameters, rank=1 << 40),
    "rank-zero": partial(_mlx_parameters, rank=0),
    "keys-missing": partial(_mlx_parameters, keys=None),
    "keys-twice": partial(_mlx_parameters, keys=["model.layers.0.self_attn.q_proj"] * 2),
    "key-of-another-layer": partial(_mlx_parameters, keys=["model.layers.9.self_attn.q_proj"]),
    "full": partial(_mlx_config, fine_tune_type="full"),
    "layers": partial(_mlx_config, num_layers=99),
}


def _mapped_without(what: bytes, new: bytes) -> Files:
    data = originals("mapped")[0]["a.lora"]
    if what not in data or len(what) != len(new):
        raise ValueError(f"{what!r} is not there, or is replaced by another length")
    return {"a.lora": data.replace(what, new, 1)}


_MAPPED: Mapping[str, Callable[[], Files]] = {
    "llama-cpp-adapter": lambda: {"a.lora": _gguf()["a.gguf"]},
    "no-scales": partial(_mapped_without, b"edgelora.scales", b"edgelora.scalez"),
    "layout": partial(_mapped_without, b"edgelora.layout", b"edgelora.layour"),
    "module": partial(_mapped_without, b"blk.0.attn_q.a", b"blk.0.attn_x.a"),
    "layer": partial(_mapped_without, b"blk.0.attn_q.a", b"blk.9.attn_q.a"),
    "halves": partial(_mapped_without, b"blk.0.attn_q.a", b"blk.0.attn_q.b"),
}

KILLERS: Mapping[Kind, Mapping[str, Callable[[], Files]]] = {
    "gguf": _GGUF,
    "mapped": _MAPPED,
    "peft": _PEFT,
    "mlx": _MLX,
}
