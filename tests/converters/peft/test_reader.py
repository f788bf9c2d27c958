"""peft: the adapter you trained is the adapter that is read, or it is refused with the reason."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft.config import CONFIG_NAME
from edgelora_converters.peft.folder import WEIGHTS_NAME, source_digest
from edgelora_models.errors import (
    AdapterCorrupt,
    AdapterError,
    AdapterIncompatible,
    AdapterUnsupported,
    EdgeloraError,
)
from edgelora_models.modules import LINEAR_MODULES
from tests.support.adapters import TINY, decode, peft_tensors, write_peft, write_safetensors
from tests.support.fuzz import mutations

PREFIX = "base_model.model."
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
Tensors = dict[str, NDArray[np.float32]]


def rewrite(folder: Path, change: Callable[[Tensors], Any]) -> Path:
    """Write an adapter of q_proj and v_proj whose tensors `change` has had in hand."""
    write_peft(folder, TINY, targets=["q_proj", "v_proj"])
    tensors = peft_tensors(TINY, rank=4, targets=["q_proj", "v_proj"])
    change(tensors)
    write_safetensors(folder / WEIGHTS_NAME, tensors)
    return folder


def refused(folder: Path, kind: type[AdapterError]) -> AdapterError:
    with pytest.raises(kind) as caught:
        peft_reader.read(folder, TINY)
    assert caught.value.remedy
    return caught.value


def by_path(adapter: LoraAdapter) -> dict[str, Any]:
    return {target.hf_path: pair for target, pair in adapter.pairs.items()}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_reads_every_pair(tmp_path: Path, dtype: str) -> None:
    """All seven modules of all layers, in order, with the numbers as stored."""
    adapter = peft_reader.read(write_peft(tmp_path, TINY, dtype=dtype, seed=3), TINY)
    tensors = peft_tensors(TINY, rank=4, seed=3)
    assert [t.hf_path for t in adapter.pairs] == [m.hf_path(n) for n in range(2) for m in LINEAR_MODULES]
    for path, pair in by_path(adapter).items():
        np.testing.assert_array_equal(pair.a, decode(tensors[f"{PREFIX}{path}.lora_A.weight"], dtype))
        np.testing.assert_array_equal(pair.b, decode(tensors[f"{PREFIX}{path}.lora_B.weight"], dtype))
        assert pair.scale == 2.0
    assert adapter.base_model == "tests/tiny-llama"
    assert adapter.max_rank == 4
    assert adapter.metadata["use_rslora"] == "false"
    assert adapter.source_digest == source_digest(tmp_path)


def test_scales_follow_rslora_and_patterns(tmp_path: Path) -> None:
    """alpha / sqrt(r) with rsLoRA, each pattern by its own key, per module."""
    ranks, alphas = {"q_proj": 2, "model.layers.1.mlp.up_proj": 6}, {"v_proj": 3, r".*\.1\.self_attn\.q_proj": 5}
    folder = write_peft(tmp_path, TINY, rank_pattern=ranks, alpha_pattern=alphas, use_rslora=True)
    pairs = by_path(peft_reader.read(folder, TINY))
    assert pairs["model.layers.0.self_attn.q_proj"].scale == 8 / math.sqrt(2)
    assert pairs["model.layers.1.self_attn.q_proj"].scale == 5 / math.sqrt(2)
    assert pairs["model.layers.0.self_attn.v_proj"].scale == 3 / math.sqrt(4)
    assert pairs["model.layers.1.mlp.up_proj"].scale == 8 / math.sqrt(6)
    assert pairs["model.layers.0.mlp.up_proj"].rank == 4


def test_only_selected_layers_and_modules(tmp_path: Path) -> None:
    """layers_to_transform and a list of targets: exactly those pairs."""
    adapter = peft_reader.read(write_peft(tmp_path, TINY, layers=[1], targets=["k_proj", "down_proj"]), TINY)
    assert list(by_path(adapter)) == ["model.layers.1.self_attn.k_proj", "model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".weight", ".default.weight"),
        (".weight", ".medical-faq.weight"),
        (PREFIX, ""),
        (PREFIX, f"_orig_mod.{PREFIX}"),
        ("self_attn.", "_fsdp_wrapped_module.self_attn._checkpoint_wrapped_module."),
        ("model.layers", "language_model.model.layers"),
        ("model.layers", "model.language_model.layers"),
    ],
)
def test_every_producers_names_are_read(tmp_path: Path, old: str, new: str) -> None:
    """Raw state dicts, torch.compile, FSDP, checkpointing, multimodal models: the same pairs as from PEFT's names."""

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            head, _, tail = name.rpartition(old)
            tensors[f"{head}{new}{tail}"] = tensors.pop(name)

    plain, other = (
        peft_reader.read(rewrite(tmp_path / "a", len), TINY),
        peft_reader.read(rewrite(tmp_path / "b", rename), TINY),
    )
    assert list(by_path(plain)) == list(by_path(other))
    for path, pair in by_path(other).items():
        np.testing.assert_array_equal(pair.a, by_path(plain)[path].a)


def test_expressions_see_the_paths_of_the_training(tmp_path: Path) -> None:
    """A multimodal model's target_modules name language_model; the plain path would not match."""
    write_peft(tmp_path, TINY, targets=["q_proj"], alpha_pattern={r"language_model\..*\.0\.self_attn\.q_proj": 2})
    tensors = peft_tensors(TINY, rank=4, targets=["q_proj"])
    renamed = {name.replace("model.layers", "model.language_model.layers"): data for name, data in tensors.items()}
    write_safetensors(tmp_path / WEIGHTS_NAME, renamed)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    config["target_modules"] = r".*language_model.*\.q_proj"
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config))
    assert [pair.scale for pair in peft_reader.read(tmp_path, TINY).pairs.values()] == [0.5, 2.0]


def test_what_is_not_read_is_listed_at_once(tmp_path: Path) -> None:
    """Unknown names and unsupported leaves in one error, each with its reason."""
    odd = {
        f"{Q0}.lora_C.weight": "no tensor of a Llama",
        f"{Q0}.lora_diag": "KaSA",
        f"{PREFIX}model.norm.weight": "whole module",
    }
    error = refused(
        rewrite(tmp_path, lambda t: t.update(dict.fromkeys(odd, np.ones((2,), np.float32)))), AdapterUnsupported
    )
    assert all(repr(name) in error.what and reason in error.what for name, reason in odd.items())


def test_both_key_forms_of_one_factor_are_refused(tmp_path: Path) -> None:
    """Nobody can say which of the two was meant."""
    folder = rewrite(tmp_path, lambda t: t.update({f"{Q0}.lora_A.default.weight": t[f"{Q0}.lora_A.weight"]}))
    assert refused(folder, AdapterCorrupt).code == "adapter_tensor_twice"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"{Q0}.lora_magnitude_vector", "DoRA"),
        (f"{Q0}.lora_B.bias", "bias of lora_B"),
        (f"{Q0}.lora_diag", "KaSA"),
        (f"{Q0}.base_layer.bias", "copy"),
        (f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta", "rows"),
        (f"{PREFIX}lm_head.weight", "whole module"),
        (f"{Q0}.weight", "whole module"),
        (f"{PREFIX}model.norm.weight", "whole module"),
        (f"{PREFIX}model.norm.lora_A.weight", "no such factor"),
        ("model.layers.0.self_attn.q_proj.lora_a", "MLX"),
        (f"{PREFIX}model.layers.00.self_attn.q_proj.lora_A.weight", "no tensor of a Llama"),
        (f"{PREFIX}model.layers.0.self_attn.z_proj.lora_A.weight", "no tensor of a Llama"),
        (f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.an.other.weight", "no tensor of a Llama"),
        ("\x1b[2J", "no tensor of a Llama"),
    ],
)
def test_every_other_tensor_is_refused_by_name(tmp_path: Path, name: str, reason: str) -> None:
    """A tensor nobody claims is not dropped: it is named, with what it is, and control characters stay harmless."""
    error = refused(rewrite(tmp_path, lambda t: t.update({name: np.ones((2,), np.float32)})), AdapterUnsupported)
    assert repr(name) in error.what
    assert reason in error.what


def test_a_lone_factor_is_refused(tmp_path: Path) -> None:
    """Every A has a B."""
    assert (
        "lora_A is missing" in refused(rewrite(tmp_path, lambda t: t.pop(f"{Q0}.lora_A.weight")), AdapterCorrupt).what
    )


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """No tensors, no adapter."""
    assert refused(rewrite(tmp_path, lambda t: t.clear()), AdapterCorrupt).code == "adapter_empty"


def test_zero_size_tensors_of_zero3_are_refused(tmp_path: Path) -> None:
    """DeepSpeed ZeRO-3 writes empty tensors when saved wrongly: the remedy says so."""
    folder = rewrite(tmp_path, lambda t: t.update({f"{Q0}.lora_A.weight": np.zeros((0,), np.float32)}))
    assert "ZeRO-3" in refused(folder, AdapterCorrupt).remedy


def test_ranks_must_agree(tmp_path: Path) -> None:
    """Between A and B, and with the configuration."""
    mixed = rewrite(tmp_path / "a", lambda t: t.update({f"{Q0}.lora_A.weight": np.ones((3, 64), np.float32)}))
    assert "rank 3" in refused(mixed, AdapterCorrupt).what
    other = write_peft(tmp_path / "b", TINY)
    write_safetensors(other / WEIGHTS_NAME, peft_tensors(TINY, rank=6))
    assert "have rank 6, but adapter_config.json gives it rank 4" in refused(other, AdapterCorrupt).what


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (replace(TINY, hidden=32), "its rows have 64 elements; the base needs 32"),
        (replace(TINY, heads=8), "it has 64 rows; the base needs 128"),
        (replace(TINY, ffn=256), "it has 128 rows; the base needs 256"),
        (replace(TINY, layers=1), "it is for layer 1, but the base has 1 layers"),
        (replace(TINY, layers=3), "ends with layer 1, and its configuration selects model.layers.2.self_attn.q_proj"),
    ],
)
def test_adapters_of_other_bases_are_refused(tmp_path: Path, base: Any, words: str) -> None:
    """A plain sentence with the tensor, what was found and what the base needs."""
    with pytest.raises(AdapterIncompatible) as caught:
        peft_reader.read(write_peft(tmp_path, TINY), base)
    assert words in caught.value.what
    assert "base" in caught.value.remedy


def test_a_layer_number_beyond_all_reason_is_refused(tmp_path: Path) -> None:
    """Huge layer numbers are just too high."""

    def move(tensors: Tensors) -> None:
        for side in "AB":
            name = f"{Q0}.lora_{side}.weight"
            tensors[name.replace("layers.0", "layers.99999")] = tensors.pop(name)

    assert "layer 99999" in refused(rewrite(tmp_path, move), AdapterIncompatible).what


def test_tensors_the_configuration_does_not_select_are_refused(tmp_path: Path) -> None:
    """PEFT would drop them with a warning."""
    folder = write_peft(tmp_path, TINY, targets=["q_proj", "v_proj"])
    write_safetensors(folder / WEIGHTS_NAME, peft_tensors(TINY, rank=4, targets=["q_proj", "v_proj", "o_proj"]))
    error = refused(folder, AdapterCorrupt)
    assert "o_proj (and 1 more), which adapter_config.json does not select" in error.what


def test_nan_is_refused_by_name(tmp_path: Path) -> None:
    """llama.cpp would load it and answer with nonsense."""

    def poison(tensors: Tensors) -> None:
        tensors[f"{Q0}.lora_B.weight"][5, 1] = np.nan

    assert refused(rewrite(tmp_path, poison), AdapterCorrupt).param == f"{Q0}.lora_B.weight"


def test_truncated_weights_are_corrupt(tmp_path: Path) -> None:
    """A download that stopped."""
    path = write_peft(tmp_path, TINY) / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:-100])
    refused(tmp_path, AdapterCorrupt)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "adapter_model.ckpt"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    """The remedy says how to save safetensors."""
    write_peft(tmp_path, TINY)
    (tmp_path / WEIGHTS_NAME).rename(tmp_path / name)
    error = refused(tmp_path, AdapterUnsupported)
    assert error.code == "adapter_is_pickle"
    assert "save_pretrained" in error.remedy


def test_folders_that_hold_something_else_are_explained(tmp_path: Path) -> None:
    """Nothing there, an adapter one level down, or an MLX adapter."""
    assert refused(tmp_path / "nothing", AdapterCorrupt).code == "adapter_missing"
    write_peft(tmp_path / "outer" / "checkpoint-10", TINY)
    assert "'checkpoint-10'" in refused(tmp_path / "outer", AdapterCorrupt).remedy
    mlx = tmp_path / "mlx"
    mlx.mkdir()
    (mlx / "adapters.safetensors").write_bytes(b"")
    assert refused(mlx, AdapterUnsupported).code == "adapter_is_mlx"


def test_mutated_adapters_never_escape_the_error_tree(tmp_path: Path) -> None:
    """Damaged weights either read or raise an EdgeloraError, nothing else."""
    folder = write_peft(tmp_path, TINY, rank=1, alpha=1, targets=["k_proj"])
    path = folder / WEIGHTS_NAME
    refusals = 0
    for mutant in mutations(path.read_bytes(), seed=3, count=300, within=900):
        path.write_bytes(mutant)
        try:
            peft_reader.read(folder, TINY)
        except EdgeloraError:
            refusals += 1
    assert 150 < refusals <= 300


# ---- real PEFT


def torch_adapter(folder: Path, **settings: Any) -> tuple[Any, Path]:
    """A tiny Llama under PEFT with random factors, saved by PEFT into `folder`; their deprecations are not ours."""
    with warnings.catch_warnings(action="ignore"):
        return _torch_adapter(folder, **settings)


def _torch_adapter(folder: Path, *, half: bool = False, **settings: Any) -> tuple[Any, Path]:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=128,
        vocab_size=256,
    )
    model = library.get_peft_model(transformers.LlamaForCausalLM(config), library.LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    if half:
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.torch
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}, id="vanilla"),
        pytest.param({"r": 8, "lora_alpha": 4, "target_modules": "all-linear", "use_rslora": True}, id="rslora"),
        pytest.param(
            {
                "r": 4,
                "lora_alpha": 8,
                "target_modules": "all-linear",
                "rank_pattern": {"q_proj": 2, r"model.layers.1.mlp.(up|gate)_proj": 6},
                "alpha_pattern": {r"layers\.0\..*": 3, "o_proj": 5},
            },
            id="patterns",
        ),
        pytest.param({"r": 4, "lora_alpha": 8, "target_modules": r".*\.1\..*(q|down)_proj"}, id="regex"),
        pytest.param(
            {
                "r": 4,
                "lora_alpha": 8,
                "target_modules": ["k_proj", "up_proj"],
                "layers_to_transform": [1],
                "exclude_modules": ["up_proj"],
            },
            id="selection",
        ),
        pytest.param(
            {"r": 4, "lora_alpha": 8, "target_modules": ["o_proj"], "init_lora_weights": "orthogonal"}, id="init"
        ),
        pytest.param({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "half": True}, id="bf16"),
    ],
)
def test_folders_written_by_peft_give_pefts_own_deltas(tmp_path: Path, settings: dict[str, Any]) -> None:
    """scale * B @ A of every pair is what PEFT itself adds to the weight."""
    model, folder = torch_adapter(tmp_path, task_type="CAUSAL_LM", **settings)
    adapter = peft_reader.read(folder, TINY)
    modules = {n.removeprefix(PREFIX): m for n, m in model.named_modules() if hasattr(m, "lora_A") and len(m.lora_A)}
    assert by_path(adapter).keys() == modules.keys()
    for path, pair in by_path(adapter).items():
        layer = modules[path]
        a, b = (factor["default"].weight.detach().double().numpy() for factor in (layer.lora_A, layer.lora_B))
        delta = pair.b.astype(np.float64) @ pair.a * pair.scale
        np.testing.assert_allclose(delta, b @ a * layer.scaling["default"], rtol=1e-12, atol=1e-12)


@pytest.mark.torch
def test_dora_tensors_without_the_flag_are_refused(tmp_path: Path) -> None:
    """torchtune writes DoRA's magnitudes and no flag: the tensors are the truth."""
    _, folder = torch_adapter(tmp_path, target_modules=["q_proj"], r=4, use_dora=True)
    path = folder / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": False}))
    assert "DoRA" in refused(folder, AdapterUnsupported).what


def test_selected_modules_without_tensors_are_counted(tmp_path: Path) -> None:
    """PEFT leaves them without an effect, so that the adapter is that of the tensors it has."""
    whole = peft_tensors(TINY, rank=4)
    some = {name: values for name, values in whole.items() if "layers.0.mlp" not in name}
    folder = write_peft(tmp_path / "a", TINY)
    write_safetensors(folder / "adapter_model.safetensors", some)
    found = peft_reader.read(folder, TINY)
    assert len(found.pairs) == 11
    assert found.metadata["treatment"] == (
        "3 selected modules have no tensors and stay as in the base (model.layers.0.mlp.gate_proj and others)"
    )
