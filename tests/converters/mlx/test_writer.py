"""The MLX folder: what mlx-lm wants, exactness through padding and folding, determinism, and a strict way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edgelora_converters.lora.adapter import LoraAdapter, Target
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterIncompatible, AdapterUnsupported, StorageError
from edgelora_models.modules import BY_HF
from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_safetensors
from tests.support.lora import GQA, delta, random_adapter, shaped_adapters

Q = Target(0, BY_HF["self_attn.q_proj"])
DOWN = Target(1, BY_HF["mlp.down_proj"])


def write(adapter: LoraAdapter, shape: LlamaShape, out: Path) -> Path:
    mlx_writer.write(adapter, shape, out, provenance={"base_fingerprint": "f" * 64})
    return out


@settings(max_examples=40, deadline=None)
@given(shaped_adapters())
def test_the_folder_rebuilds_every_delta(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[LlamaShape, LoraAdapter]
) -> None:
    """Read by safetensors alone, (lora_a @ lora_b).T times the scale is scale * B @ A for every module and no more."""
    shape, adapter = case
    folder = write(adapter, shape, tmp_path_factory.mktemp("mlx") / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapters.safetensors")
    for target, pair in adapter.pairs.items():
        a, b = (tensors.pop(f"{target.hf_path}.{half}").astype(np.float64) for half in ("lora_a", "lora_b"))
        assert a.shape[1] == b.shape[0] == config["lora_parameters"]["rank"] == adapter.max_rank
        wanted = delta(pair)
        rebuilt = config["lora_parameters"]["scale"] * (a @ b).T
        assert np.linalg.norm(rebuilt - wanted) <= 1e-6 * np.linalg.norm(wanted)
    assert tensors == {}


@settings(max_examples=20, deadline=None)
@given(shaped_adapters())
def test_what_was_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[LlamaShape, LoraAdapter]
) -> None:
    """Every pair, bit for bit, transposed and padded with zeros."""
    shape, adapter = case
    found = mlx_writer.read(write(adapter, shape, tmp_path_factory.mktemp("mlx") / "adapter"), shape)
    assert found.keys() == adapter.pairs.keys()
    for target, (a, b, _) in found.items():
        pair = adapter.pairs[target]
        np.testing.assert_array_equal(a[:, : pair.rank].T, pair.a)
        np.testing.assert_array_equal(b[: pair.rank].T, pair.folded_b())
        assert not a[:, pair.rank :].any() and not b[pair.rank :].any()


def test_the_configuration(tmp_path: Path) -> None:
    """Full paths as keys, all layers, one rank, scale 1.0, no dropout; provenance apart."""
    adapter = random_adapter(GQA, targets=[Q, DOWN], ranks=(3, 5))
    folder = write(adapter, GQA, tmp_path / "adapter")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapters.safetensors"]
    assert json.loads((folder / "adapter_config.json").read_text()) == {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {
            "rank": 5,
            "scale": 1.0,
            "dropout": 0.0,
            "keys": ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"],
        },
        "edgelora": {
            "base_fingerprint": "f" * 64,
            "fold": "scale into lora_b",
            "source_digest": adapter.source_digest,
        },
    }


def test_same_input_same_bytes(tmp_path: Path) -> None:
    """The order of the pairs does not show in the bytes."""
    adapter = random_adapter(GQA, ranks=(3, 5))
    backwards = replace(adapter, pairs=dict(reversed(adapter.pairs.items())))
    first, second = write(adapter, GQA, tmp_path / "a"), write(backwards, GQA, tmp_path / "b")
    for name in ("adapter_config.json", "adapters.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """The operating system refusing the last bytes is a StorageError, and no half folder stays."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(StorageError):
            write(random_adapter(GQA), GQA, tmp_path / "adapter")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stays(tmp_path: Path) -> None:
    """A folder with something in it is not replaced."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mine").write_text("kept")
    with pytest.raises(StorageError):
        write(random_adapter(GQA), GQA, tmp_path / "adapter")
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter", "mine"]


def test_a_scale_out_of_range(tmp_path: Path) -> None:
    """A scale that takes lora_b to infinity in float32 is refused, never written."""
    with pytest.raises(AdapterUnsupported):
        write(random_adapter(GQA, scales=(1e39,)), GQA, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_scale_is_honoured(tmp_path: Path) -> None:
    """Another tool's folder with a scale of its own comes back with that scale in b."""
    folder = write(random_adapter(GQA, targets=[Q]), GQA, tmp_path / "adapter")
    before = mlx_writer.read(folder, GQA)[Q][1]
    set_config(folder, lambda config: config["lora_parameters"].update(scale=20))
    np.testing.assert_array_equal(mlx_writer.read(folder, GQA)[Q][1], before * 20)


def set_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda c: c.update(fine_tune_type="full"), AdapterUnsupported),
        (lambda c: c.update(fine_tune_type="dora"), AdapterCorrupt),
        (lambda c: c.pop("lora_parameters"), AdapterCorrupt),
        (lambda c: c["lora_parameters"].pop("rank"), AdapterCorrupt),
        (lambda c: c["lora_parameters"].update(rank=0), AdapterCorrupt),
        (lambda c: c["lora_parameters"].update(rank="4"), AdapterCorrupt),
        (lambda c: c["lora_parameters"].update(scale=None), AdapterCorrupt),
        (lambda c: c["lora_parameters"].update(scale=10**400), AdapterCorrupt),
        (lambda c: c["lora_parameters"].update(scale=1e300), AdapterUnsupported),
        (lambda c: c["lora_parameters"].update(keys=None), AdapterCorrupt),
        (lambda c: c["lora_parameters"].update(keys=[]), AdapterCorrupt),
        (lambda c: c["lora_parameters"]["keys"].append(Q.hf_path), AdapterCorrupt),
        (lambda c: c["lora_parameters"]["keys"].append(DOWN.hf_path), AdapterCorrupt),
        (lambda c: c["lora_parameters"].update(keys=["self_attn.q_proj"]), AdapterUnsupported),
        (lambda c: c["lora_parameters"].update(keys=["model.layers.2.self_attn.q_proj"]), AdapterIncompatible),
        (lambda c: c["lora_parameters"].update(rank=5), AdapterIncompatible),
        (lambda c: c.update(num_layers=3), AdapterIncompatible),
    ],
)
def test_bad_configurations(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], error: type[AdapterError]
) -> None:
    """Fields that are missing, of other types, or at odds with the tensors or the base: each its own error."""
    folder = write(random_adapter(GQA, targets=[Q]), GQA, tmp_path / "adapter")
    set_config(folder, change)
    with pytest.raises(error):
        mlx_writer.read(folder, GQA)


def spoiled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    values = values.copy()
    values[0, 0] = np.nan
    return values


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda t: t.pop(f"{Q.hf_path}.lora_a"), AdapterCorrupt),
        (lambda t: t.update({f"{Q.hf_path}.m": np.ones(64, np.float32)}), AdapterCorrupt),
        (lambda t: t.update({f"{Q.hf_path}.lora_a": spoiled(t[f"{Q.hf_path}.lora_a"])}), AdapterCorrupt),
        (lambda t: t.update({f"{Q.hf_path}.lora_b": t[f"{Q.hf_path}.lora_b"][:, :32]}), AdapterIncompatible),
    ],
)
def test_bad_tensors(
    tmp_path: Path, change: Callable[[dict[str, NDArray[np.float32]]], object], error: type[AdapterError]
) -> None:
    """A missing half, one too many, NaN, another width: each its own error. mlx-lm would run the base on the first."""
    folder = write(random_adapter(GQA, targets=[Q]), GQA, tmp_path / "adapter")
    tensors = load_file(folder / "adapters.safetensors")
    change(tensors)
    write_safetensors(folder / "adapters.safetensors", tensors)
    with pytest.raises(error):
        mlx_writer.read(folder, GQA)


def test_truncation(tmp_path: Path) -> None:
    """A tensor file cut short is corrupt."""
    folder = write(random_adapter(GQA, targets=[Q]), GQA, tmp_path / "adapter")
    path = folder / "adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AdapterCorrupt):
        mlx_writer.read(folder, GQA)
