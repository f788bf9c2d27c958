"""MLX adapters as sources: what mlx-lm's own training writes, and what it would not load."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, Target
from edgelora_converters.mlx import source as mlx_source
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterIncompatible, AdapterUnsupported
from edgelora_models.modules import BY_HF
from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_safetensors
from tests.support.fuzz import mutations
from tests.support.lora import GQA, WIDE_HEADS, delta, every_target, random_adapter

TRAINED: dict[str, Any] = {
    # As mlx-lm's trainer saves them: all of its command line's settings.
    "adapter_path": "adapters",
    "batch_size": 4,
    "fine_tune_type": "lora",
    "iters": 1000,
    "lora_parameters": {"rank": 4, "dropout": 0.0, "scale": 20.0},
    "model": "mlx-community/tiny",
    "num_layers": 1,
    "train": True,
}
Tensors = dict[str, NDArray[np.float32]]


def trained(adapter: LoraAdapter) -> Tensors:
    """The factors as mlx-lm stores them, nothing folded."""
    tensors: Tensors = {}
    for target, pair in adapter.pairs.items():
        tensors[f"{target.hf_path}.lora_a"] = np.ascontiguousarray(pair.a.T)
        tensors[f"{target.hf_path}.lora_b"] = np.ascontiguousarray(pair.b.T)
    return tensors


def write(folder: Path, tensors: Mapping[str, NDArray[np.float32]], **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(TRAINED | config))
    write_safetensors(folder / "adapters.safetensors", tensors)
    return folder


def last_layers(shape: LlamaShape, count: int) -> list[Target]:
    return [target for target in every_target(shape) if (target.layer or 0) >= shape.layers - count]


def test_a_trained_folder(tmp_path: Path) -> None:
    """Without keys all linear modules of the last layers are meant; the factors and the scale are the file's own."""
    source = random_adapter(WIDE_HEADS, targets=last_layers(WIDE_HEADS, 2), scales=(20.0,))
    found = mlx_source.read(write(tmp_path / "a", trained(source), num_layers=2), WIDE_HEADS)
    assert found.pairs.keys() == source.pairs.keys()
    assert {pair.scale for pair in found.pairs.values()} == {20.0}
    for target, pair in found.pairs.items():
        np.testing.assert_array_equal(delta(pair), delta(source.pairs[target]))
    assert (found.base_model, found.metadata["trained_with"]) == ("mlx-community/tiny", "mlx-lm")


@pytest.mark.parametrize("layers", [0, -1, 3, 99])
def test_all_layers(tmp_path: Path, layers: int) -> None:
    """0 and fewer, and more than there are, mean all of them."""
    source = random_adapter(WIDE_HEADS)
    found = mlx_source.read(write(tmp_path / "a", trained(source), num_layers=layers), WIDE_HEADS)
    assert found.pairs.keys() == source.pairs.keys()


def test_relative_and_full_keys(tmp_path: Path) -> None:
    """A name within a layer means the last layers, a full path that module, and one that matches nothing nothing."""
    v, down = BY_HF["self_attn.v_proj"], BY_HF["mlp.down_proj"]
    source = random_adapter(WIDE_HEADS, targets=[Target(0, down), Target(2, v)])
    keys = ["self_attn.v_proj", "model.layers.0.mlp.down_proj", "mlp.switch_mlp.gate_proj"]
    parameters = TRAINED["lora_parameters"] | {"keys": keys}
    found = mlx_source.read(write(tmp_path / "a", trained(source), lora_parameters=parameters), WIDE_HEADS)
    assert found.pairs.keys() == source.pairs.keys()


def test_padding_is_cut(tmp_path: Path) -> None:
    """Ranks of zeros behind both factors go; zeros in one factor alone, as an untrained B's, are values."""
    source = random_adapter(GQA, targets=last_layers(GQA, 1))
    tensors = trained(source)
    first, second, third = (target.hf_path for target in last_layers(GQA, 1)[:3])
    tensors[f"{first}.lora_a"][:, 3] = tensors[f"{first}.lora_b"][3] = 0
    tensors[f"{second}.lora_b"][:] = 0
    tensors[f"{third}.lora_a"][:] = tensors[f"{third}.lora_b"][:] = 0
    found = mlx_source.read(write(tmp_path / "a", tensors), GQA)
    assert [pair.rank for pair in found.pairs.values()] == [3, 4, 1, 4, 4, 4, 4]


def test_dora_keeps_its_magnitude(tmp_path: Path) -> None:
    """m is PEFT's magnitude vector: one value for every row of the weight."""
    source = random_adapter(GQA, targets=last_layers(GQA, 1))
    tensors = trained(source)
    for target, pair in source.pairs.items():
        tensors[f"{target.hf_path}.m"] = np.arange(len(pair.b), dtype=np.float32)
    found = mlx_source.read(write(tmp_path / "a", tensors, fine_tune_type="dora"), GQA)
    for pair in found.pairs.values():
        assert pair.magnitude is not None
        np.testing.assert_array_equal(pair.magnitude, np.arange(len(pair.b)))


def test_the_head_and_the_embedding(tmp_path: Path) -> None:
    """Their full paths are keys as well; with a tied base mlx-lm would use the embedding's factors in the head too."""
    keys = ["lm_head", "model.embed_tokens"]
    rng = np.random.default_rng(0)
    tensors: Tensors = {}
    for name, width, out in (("lm_head", GQA.hidden, GQA.vocab), ("model.embed_tokens", GQA.vocab, GQA.hidden)):
        tensors[f"{name}.lora_a"] = rng.standard_normal((width, 4)).astype(np.float32)
        tensors[f"{name}.lora_b"] = rng.standard_normal((4, out)).astype(np.float32)
    folder = write(tmp_path / "a", tensors, lora_parameters=TRAINED["lora_parameters"] | {"keys": keys})
    found = mlx_source.read(folder, GQA)
    assert [(t.hf_path, p.a.shape, p.b.shape) for t, p in found.pairs.items()] == [
        ("model.embed_tokens", (4, GQA.vocab), (GQA.hidden, 4)),
        ("lm_head", (4, GQA.hidden), (GQA.vocab, 4)),
    ]
    with pytest.raises(AdapterUnsupported) as caught:
        mlx_source.read(folder, replace(GQA, tied=True))
    assert caught.value.code == "mlx_tied_embedding"


Q = f"{last_layers(GQA, 1)[0].hf_path}"


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"fine_tune_type": "full"}, AdapterUnsupported, "fine_tune_type"),
        ({"lora_parameters": None}, AdapterCorrupt, "bad_config"),
        ({"lora_parameters": {"rank": 4, "alpha": 16, "dropout": 0.0}}, AdapterCorrupt, "bad_config"),
        ({"lora_parameters": {"rank": True, "scale": 1.0}}, AdapterCorrupt, "bad_config"),
        ({"lora_parameters": {"rank": 4, "scale": 1.0, "keys": "q"}}, AdapterCorrupt, "bad_config"),
        ({"lora_parameters": {"rank": 5, "scale": 1.0}}, AdapterIncompatible, "shape_mismatch"),
        ({"num_layers": None}, AdapterCorrupt, "bad_config"),
    ],
)
def test_bad_configurations(tmp_path: Path, change: dict[str, Any], error: type[AdapterError], code: str) -> None:
    """What mlx-lm would not load, or would load as another adapter, has its own error."""
    folder = write(tmp_path / "a", trained(random_adapter(GQA, targets=last_layers(GQA, 1))), **change)
    with pytest.raises(error) as caught:
        mlx_source.read(folder, GQA)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        (lambda t: t.pop(f"{Q}.lora_b"), AdapterCorrupt, "incomplete_pair"),
        (lambda t: t.update({f"{Q}.m": np.ones(64, np.float32)}), AdapterCorrupt, "incomplete_pair"),
        (lambda t: t.update({"model.norm.weight": np.ones(64, np.float32)}), AdapterUnsupported, "unknown_tensor"),
        (
            lambda t: t.update({"model.layers.9.mlp.up_proj.lora_a": np.ones((2, 2), np.float32)}),
            AdapterIncompatible,
            "",
        ),
        (lambda t: t.update({"model.layers.1.mlp.gate.lora_a": np.ones((2, 2), np.float32)}), AdapterUnsupported, ""),
        (lambda t: t.update({f"{Q}.lora_a": np.full((64, 4), np.nan, np.float32)}), AdapterCorrupt, ""),
    ],
)
def test_bad_tensors(tmp_path: Path, change: Callable[[Tensors], object], error: type[AdapterError], code: str) -> None:
    """A half alone, a magnitude that is not configured, foreign names, other layers, NaN: each refused."""
    tensors = trained(random_adapter(GQA, targets=last_layers(GQA, 1)))
    change(tensors)
    with pytest.raises(error) as caught:
        mlx_source.read(write(tmp_path / "a", tensors), GQA)
    assert not code or caught.value.code == code


@pytest.mark.parametrize("name", ["adapter_config.json", "adapters.safetensors"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    """Whatever either file says, the outcome is an adapter or an error of the tree, never another exception."""
    folder = write(tmp_path / "a", trained(random_adapter(GQA, targets=last_layers(GQA, 1))))
    path, outcomes = folder / name, set()
    for mutant in mutations(path.read_bytes(), seed=6, count=200, within=1200):
        path.write_bytes(mutant)
        try:
            mlx_source.read(folder, GQA)
        except AdapterError as error:
            outcomes.add(error.code)
    assert len(outcomes) > 2


@pytest.mark.mlx
def test_mlx_lm_trains_such_folders(tmp_path: Path) -> None:
    """A model of mlx-lm's with its own LoRA layers, saved as its trainer does, is read as the adapter it runs."""
    utils = pytest.importorskip("mlx_lm.utils")
    from mlx import core
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle, write_tiny_hf

    model, _ = utils.load_model(write_tiny_hf(tmp_path / "base", GQA, seed=1))
    model.freeze()
    linear_to_lora_layers(model, 1, TRAINED["lora_parameters"])
    rng = np.random.default_rng(3)
    values = {
        name: core.array((rng.standard_normal(array.shape) * 0.05).astype(np.float32))
        for name, array in tree_flatten(model.trainable_parameters())
    }
    model.load_weights(list(values.items()), strict=False)
    folder = write(tmp_path / "a", {name: np.array(array) for name, array in values.items()})
    found = mlx_source.read(folder, GQA)
    wanted = np.array(model(core.array([TOKENS]))[0])
    assert distance(tiny_oracle(GQA, seed=1).logits(TOKENS, deltas(found)), wanted) < 5e-5


QV = ("self_attn.q_proj", "self_attn.v_proj")


def last_qv(count: int = 1) -> LoraAdapter:
    return random_adapter(GQA, targets=[t for t in last_layers(GQA, count) if t.module.hf in QV], scales=(20.0,))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_layers": None, "lora_layers": 1},
        {"lora_parameters": TRAINED["lora_parameters"] | {"keys": ["auto"]}},
        {"lora_parameters": TRAINED["lora_parameters"] | {"keys": list(QV)}},
        {"fine_tune_type": None, "use_dora": False},
    ],
)
def test_all_ages_of_the_configuration(tmp_path: Path, change: dict[str, Any]) -> None:
    """Without keys the old default was q and v: the tensors tell. Older files have other names for two settings."""
    config = {key: value for key, value in (TRAINED | change).items() if value is not None}
    folder = write(tmp_path / "a", trained(last_qv()))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    found = mlx_source.read(folder, GQA)
    assert found.pairs.keys() == last_qv().pairs.keys()
    assert "treatment" not in found.metadata


def test_the_old_flag_for_dora(tmp_path: Path) -> None:
    """`use_dora`, until `fine_tune_type` came; the newer setting counts where both stand."""
    tensors = trained(last_qv())
    for target, pair in last_qv().pairs.items():
        tensors[f"{target.hf_path}.m"] = np.ones(len(pair.b), np.float32)
    config = {key: value for key, value in TRAINED.items() if key != "fine_tune_type"} | {"use_dora": True}
    folder = write(tmp_path / "a", tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert all(pair.magnitude is not None for pair in mlx_source.read(folder, GQA).pairs.values())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"fine_tune_type": "lora"}))
    with pytest.raises(AdapterCorrupt):
        mlx_source.read(folder, GQA)


def test_selected_modules_without_tensors_are_counted(tmp_path: Path) -> None:
    """mlx-lm leaves them at zero. Without keys only layers can be missing, with keys modules as well."""
    folder = write(tmp_path / "a", trained(last_qv()), num_layers=2)
    assert mlx_source.read(folder, GQA).metadata["treatment"].startswith("2 selected modules have no tensors")
    keys = {"keys": [*QV, "mlp.up_proj"]}
    folder = write(tmp_path / "b", trained(last_qv()), lora_parameters=TRAINED["lora_parameters"] | keys)
    assert "1 selected module has no tensors" in mlx_source.read(folder, GQA).metadata["treatment"]


def test_an_adapter_of_fewer_layers(tmp_path: Path) -> None:
    """Its last layer is in the middle of this base."""
    folder = write(tmp_path / "a", trained(last_qv(GQA.layers)), num_layers=-1)
    with pytest.raises(AdapterIncompatible) as caught:
        mlx_source.read(folder, replace(GQA, layers=GQA.layers + 2))
    assert "fewer layers" in caught.value.remedy


def test_half_a_pair_and_no_tensors(tmp_path: Path) -> None:
    """Both stay errors: nobody saves an adapter so."""
    tensors = trained(last_qv())
    tensors.pop(next(name for name in tensors if name.endswith("lora_b")))
    with pytest.raises(AdapterCorrupt) as caught:
        mlx_source.read(write(tmp_path / "a", tensors), GQA)
    assert caught.value.code == "incomplete_pair"
    with pytest.raises(AdapterCorrupt) as caught:
        mlx_source.read(write(tmp_path / "b", {}), GQA)
    assert caught.value.code == "adapter_empty"


def test_an_alpha_that_was_once_used(tmp_path: Path) -> None:
    """A file of `lora_layers`' time with an alpha: read as mlx-lm reads it now, and said."""
    config = {key: value for key, value in TRAINED.items() if key != "num_layers"}
    config |= {"lora_layers": 1, "lora_parameters": {"rank": 4, "alpha": 16, "scale": 10.0, "dropout": 0.0}}
    folder = write(tmp_path / "a", trained(last_qv()))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    found = mlx_source.read(folder, GQA)
    assert {pair.scale for pair in found.pairs.values()} == {10.0}
    assert "alpha was not used" in found.metadata["treatment"]
