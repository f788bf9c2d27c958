"""The GGUF writer: layout, exactness, row order, determinism, and nothing left behind when it fails."""

from __future__ import annotations

import errno
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported, StorageError
from edgelora_models.modules import BY_HF
from edgelora_models.shape import LlamaShape
from tests.support.lora import GQA, delta, random_adapter, shaped_adapters

Q = Target(0, BY_HF["self_attn.q_proj"])


def write(adapter: LoraAdapter, shape: LlamaShape, out: Path) -> Path:
    gguf_writer.write(adapter, shape, out, provenance={"base_fingerprint": "f" * 64})
    return out


def hf_rows(rows: NDArray[Any], heads: int | None) -> NDArray[Any]:
    """Un-permute by the definition: GGUF row h*d + 2*i + half is Hugging Face row h*d + half*d/2 + i."""
    if heads is None:
        return rows
    d = len(rows) // heads
    order = [h * d + 2 * i + half for h in range(heads) for half in (0, 1) for i in range(d // 2)]
    return rows[order]


@settings(max_examples=40, deadline=None)
@given(shaped_adapters())
def test_the_file_rebuilds_every_delta(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[LlamaShape, LoraAdapter]
) -> None:
    """Read by gguf-py alone, with the rows put back, lora_b @ lora_a is scale * B @ A for every module and no more."""
    shape, adapter = case
    path = write(adapter, shape, tmp_path_factory.mktemp("gguf") / "a.gguf")
    tensors = {t.name: np.asarray(t.data) for t in gguf_package.GGUFReader(path).tensors}
    for target, pair in adapter.pairs.items():
        name = target.module.gguf_path(target.layer)
        a, b = (tensors.pop(f"{name}.{half}").astype(np.float64) for half in ("lora_a", "lora_b"))
        wanted = delta(pair)
        rebuilt = hf_rows(b, target.module.rotary_heads(shape)) @ a
        assert np.linalg.norm(rebuilt - wanted) <= 1e-6 * np.linalg.norm(wanted)
    assert tensors == {}


def test_keys_and_order(tmp_path: Path) -> None:
    """The keys llama.cpp asks for, alpha 0.0 as f32, provenance as strings; layer 10 after layer 2."""
    shape = replace(GQA, layers=11)
    targets = [Target(layer, Q.module) for layer in (10, 2)]
    adapter = random_adapter(shape, targets=targets)
    reader = gguf_package.GGUFReader(write(adapter, shape, tmp_path / "a.gguf"))
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 0.0,
        "edgelora.base_fingerprint": "f" * 64,
        "edgelora.fold": "scale into lora_b",
        "edgelora.source_digest": adapter.source_digest,
    }
    assert reader.fields["adapter.lora.alpha"].types == [gguf_package.GGUFValueType.FLOAT32]
    assert [t.name for t in reader.tensors] == [
        f"blk.{layer}.attn_q.weight.{half}" for layer in (2, 10) for half in ("lora_a", "lora_b")
    ]
    assert {t.tensor_type for t in reader.tensors} == {gguf_package.GGMLQuantizationType.F32}


def test_same_input_same_bytes(tmp_path: Path) -> None:
    """Neither the order of the pairs nor the name of the file shows in the bytes."""
    adapter = random_adapter(GQA, ranks=(3, 5))
    pairs = list(adapter.pairs.items())
    random.Random(1).shuffle(pairs)
    first = write(adapter, GQA, tmp_path / "a.gguf").read_bytes()
    assert write(replace(adapter, pairs=dict(pairs)), GQA, tmp_path / "other.gguf").read_bytes() == first


def test_an_old_file_is_replaced_whole(tmp_path: Path) -> None:
    """Writing over a file leaves the new one and nothing beside it."""
    out = tmp_path / "a.gguf"
    out.write_bytes(b"old")
    write(random_adapter(GQA), GQA, out)
    assert out.read_bytes()[:4] == b"GGUF"
    assert list(tmp_path.iterdir()) == [out]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way is a StorageError, the old file stays, no temporary file does."""
    out = tmp_path / "a.gguf"
    out.write_bytes(b"old")

    def fail(writer: object, tensor: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf_writer, "write_tensor", fail)
    with pytest.raises(StorageError) as caught:
        write(random_adapter(GQA), GQA, out)
    assert caught.value.code == "no_space"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.gguf": b"old"}


@pytest.mark.parametrize("missing", [1, 600, 20_000])
def test_a_real_write_failure_leaves_nothing(tmp_path: Path, missing: int) -> None:
    """The operating system refusing the last byte, the last tensor or half the file is a StorageError."""
    resource = pytest.importorskip("resource")
    adapter, limits = random_adapter(GQA), resource.getrlimit(resource.RLIMIT_FSIZE)
    complete = write(adapter, GQA, tmp_path / "a.gguf")
    size = complete.stat().st_size
    complete.unlink()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, limits[1]))
    try:
        with pytest.raises(StorageError):
            write(adapter, GQA, tmp_path / "a.gguf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    """Writing into a folder that is not there says so."""
    with pytest.raises(StorageError, match="folder exists"):
        write(random_adapter(GQA), GQA, tmp_path / "none" / "a.gguf")


@pytest.mark.parametrize(
    ("target", "a", "b"),
    [
        (Target(2, Q.module), (4, 64), (64, 4)),
        (Q, (4, 65), (64, 4)),
        (Q, (4, 64), (65, 4)),
        (Q, (4, 64), (64, 3)),
        (Q, (0, 64), (64, 0)),
    ],
)
def test_a_pair_the_base_has_no_place_for(
    tmp_path: Path, target: Target, a: tuple[int, int], b: tuple[int, int]
) -> None:
    """A layer, width or rank that does not fit is refused before anything is written, and named."""
    pair = LoraPair(np.ones(a, np.float32), np.ones(b, np.float32), 1.0)
    with pytest.raises(AdapterIncompatible) as caught:
        write(LoraAdapter({target: pair}, "0" * 64, None), GQA, tmp_path / "a.gguf")
    assert caught.value.param == target.hf_path
    assert list(tmp_path.iterdir()) == []


def test_a_scale_out_of_range(tmp_path: Path) -> None:
    """A scale that takes lora_b to infinity in float32 is refused, never written."""
    adapter = random_adapter(GQA, scales=(1e39,))
    with pytest.raises(AdapterUnsupported, match="not finite"):
        write(adapter, GQA, tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_nothing(tmp_path: Path) -> None:
    """An adapter without a module is refused: it would be the base in disguise."""
    with pytest.raises(AdapterCorrupt):
        write(LoraAdapter({}, "0" * 64, None), GQA, tmp_path / "a.gguf")
