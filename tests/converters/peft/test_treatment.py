"""treatment: variants read as the delta PEFT computes; what cannot be is refused, each for its own reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft.read_options import ReadOptions
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterIncompatible, AdapterUnsupported
from edgelora_models.shape import LlamaShape
from tests.support import variants
from tests.support.adapters import TINY
from tests.support.bases import tiny_weights
from tests.support.lora import delta, shapes
from tests.support.variants import plain, save
from tests.support.weights import tiny_base

SETTINGS = settings(deadline=None, max_examples=15)
Q0 = "model.layers.0.self_attn.q_proj"


def check(adapter: LoraAdapter, wanted: variants.Deltas, *, limit: float = 1e-6) -> None:
    assert {target.hf_path for target in adapter.pairs} == wanted.keys()
    for target, pair in adapter.pairs.items():
        own = wanted[target.hf_path]
        assert np.linalg.norm(delta(pair) - own) <= limit * max(np.linalg.norm(own), 1e-9), target.hf_path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variants")


@SETTINGS
@given(shape=shapes(), rank=st.integers(1, 6), alpha=st.floats(0.5, 64), seed=st.integers(0, 99))
def test_adalora_is_its_product(work: Path, shape: LlamaShape, rank: int, alpha: float, seed: int) -> None:
    """B (A * E) * alpha / (init_r + 1e-5) for any ranks left; modules left with none are not adapted."""
    wanted = variants.adalora(work, shape, init_rank=rank, alpha=alpha, seed=seed)
    check(peft_reader.read(work, shape), wanted)


@SETTINGS
@given(shape=shapes(), count=st.sampled_from([1, 2]), each=st.integers(1, 3), seed=st.integers(0, 99))
def test_blocks_are_a_diagonal(work: Path, shape: LlamaShape, count: int, each: int, seed: int) -> None:
    """Block-diagonal A or B, mixed with plain modules, for any number of blocks that divides the widths."""
    wanted = variants.blocks(work, shape, rank=count * each, count=count, seed=seed)
    check(peft_reader.read(work, shape), wanted)


@SETTINGS
@given(shape=shapes().filter(lambda s: s.kv_width > 2), rank=st.integers(1, 2), seed=st.integers(0, 99))
def test_kasa_is_what_the_base_lost_and_gained(work: Path, shape: LlamaShape, rank: int, seed: int) -> None:
    """B diag(d) A less the smallest singular components of the base."""
    weights = tiny_weights(shape, seed=seed)
    wanted = variants.kasa(work, shape, weights, rank=rank, seed=seed)
    steps: list[tuple[int, int]] = []
    weights_given = tiny_base(shape, seed=seed)
    reading = ReadOptions(
        weights_given, allow_approximate=True, progress=lambda done, total: steps.append((done, total))
    )
    check(peft_reader.read(work, shape, reading=reading), wanted, limit=1e-4)
    assert steps == [(done, len(wanted)) for done in range(len(wanted) + 1)], "how far the decompositions are is told"


@SETTINGS
@given(
    shape=shapes(),
    rank=st.integers(1, 4),
    ranks=st.dictionaries(st.sampled_from(["q_proj", "v_proj", "down_proj"]), st.integers(1, 5)),
    alphas=st.dictionaries(st.sampled_from(["k_proj", "mlp.up_proj"]), st.floats(-9, 9).filter(bool)),
    rslora=st.booleans(),
    name=st.sampled_from(["pissa", "pissa_niter_16", "olora", "corda", "lora_ga"]),
)
def test_initial_adapters_are_taken_away(
    work: Path,
    shape: LlamaShape,
    rank: int,
    ranks: dict[str, int],
    alphas: dict[str, float],
    rslora: bool,
    name: str,
) -> None:
    """Trained less initial, whatever ranks, alphas and patterns, both by the same scale."""
    last, first = (plain(shape, rank=rank, ranks=ranks, seed=seed) for seed in (1, 2))
    own: dict[str, Any] = {"r": rank, "rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": rslora}
    save(work / "last", last, init_lora_weights=name, **own)
    save(work / "first", first, init_lora_weights=True, **own)
    adapter = peft_reader.read(work / "last", shape, reading=ReadOptions(initial=work / "first"))
    for target, pair in adapter.pairs.items():
        path, r = target.hf_path, ranks.get(target.module.short, rank)
        alpha = next((alphas[key] for key in alphas if path.endswith(key)), 8)
        scale = alpha / np.sqrt(r) if rslora else alpha / r
        wanted = variants.product(last, path, scale=scale) - variants.product(first, path, scale=scale)
        np.testing.assert_allclose(delta(pair), wanted, rtol=0, atol=1e-12)


def qalora(folder: Path, *, group: int) -> dict[str, NDArray[np.float32]]:
    tensors = plain(TINY, rank=4)
    narrow = {name: values[:, : values.shape[1] // group] for name, values in tensors.items() if "lora_A" in name}
    save(folder, tensors | narrow, use_qalora=True, qalora_group_size=group)
    return tensors | narrow


def test_qalora_is_spread_out(tmp_path: Path) -> None:
    """Each column for a whole group of inputs, times groups over group size; the report names its base."""
    tensors = qalora(tmp_path, group=16)
    adapter = peft_reader.read(tmp_path, TINY)
    for target, pair in adapter.pairs.items():
        width = target.module.in_features(TINY)
        a, b = (tensors[f"{target.hf_path}.lora_{side}.weight"].astype(np.float64) for side in "AB")
        np.testing.assert_allclose(delta(pair), 2 * b @ np.repeat(a, 16, axis=1) * (width / 16) / 16, rtol=1e-12)
    assert "GPTQ" in adapter.metadata["treatment"]


def test_plain_adapters_have_no_treatment(tmp_path: Path) -> None:
    """Nothing is reported where nothing was done."""
    adapter = peft_reader.read(save(tmp_path, plain(TINY, rank=4)), TINY)
    assert "treatment" not in adapter.metadata and peft_reader.BESIDE not in adapter.metadata


def test_training_only_tensors_are_dropped(tmp_path: Path) -> None:
    """VeLoRA's projections and MonteCLoRA's sampler act on no answer."""
    names = ("lora_velora_embed", *(f"lora_monteclora_sampler.{name}" for name in ("expert_weights", "std_prior")))
    extra = {f"{Q0}.{name}": np.ones(8) for name in names}
    save(tmp_path / "a", plain(TINY, rank=4) | extra, velora_config={"num_groups": 8})
    save(tmp_path / "b", plain(TINY, rank=4))
    one, other = (peft_reader.read(tmp_path / name, TINY) for name in "ab")
    for target, pair in one.pairs.items():
        np.testing.assert_array_equal(pair.b, other.pairs[target].b)


def test_parameters_are_modules(tmp_path: Path) -> None:
    """target_parameters with the same tensors is the same adapter."""
    save(
        tmp_path,
        plain(TINY, rank=4),
        target_modules=None,
        target_parameters=[f"{m}.weight" for m in variants.ALL_MODULES],
    )
    assert len(peft_reader.read(tmp_path, TINY).pairs) == 14


def test_dora_and_bias_are_kept(tmp_path: Path) -> None:
    """Their vectors are read where the configuration has them, for every module."""
    out = {target.hf_path: target.module.out_features(TINY) for target in variants.targets(TINY)}
    magnitudes = {f"{path}.lora_magnitude_vector": np.full(width, 2.0) for path, width in out.items()}
    save(tmp_path / "dora", plain(TINY, rank=4) | magnitudes, use_dora=True)
    for target, pair in peft_reader.read(tmp_path / "dora", TINY).pairs.items():
        assert pair.magnitude is not None and pair.magnitude.shape == (out[target.hf_path],) and pair.bias is None
    biases = {f"{path}.lora_B.bias": np.full(width, 3.0) for path, width in out.items()}
    save(tmp_path / "bias", plain(TINY, rank=4) | biases, lora_bias=True)
    biased = peft_reader.read(tmp_path / "bias", TINY)
    assert all(pair.bias is not None and (pair.bias == 3).all() for pair in biased.pairs.values())
    magnitudes.pop(f"{Q0}.lora_magnitude_vector")
    save(tmp_path / "dora", plain(TINY, rank=4) | magnitudes, use_dora=True)
    with pytest.raises(AdapterCorrupt, match="lacks its lora_magnitude_vector"):
        peft_reader.read(tmp_path / "dora", TINY)


def extra(name: str, *shape: int) -> dict[str, NDArray[Any]]:
    """A tensor beside the plain ones, all ones."""
    return {name: np.ones(shape)}


DIAGONALS = {f"{target.hf_path}.lora_diag": np.ones(4) for target in variants.targets(TINY)}
HEAD = ["lm_head"]
GOLDEN: dict[str, tuple[dict[str, NDArray[Any]], dict[str, Any], str]] = {
    "arrow": ({}, {"arrow_config": {"top_k": 3}}, "adapter_arrow"),
    "layer replication": ({}, {"layer_replication": [[0, 2], [1, 2]]}, "adapter_layer_replication"),
    "weight tying": ({}, {"ensure_weight_tying": True}, "adapter_weight_tying"),
    "LoftQ": ({}, {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "adapter_loftq"),
    "unknown initialisation": ({}, {"init_lora_weights": "fancy"}, "adapter_init"),
    "PiSSA": ({}, {"init_lora_weights": "pissa"}, "base_needed"),
    "OLoRA": ({}, {"init_lora_weights": "olora"}, "base_needed"),
    "KaSA": (DIAGONALS, {"kasa_config": {"beta": 1}}, "base_needed"),
    "randomised PiSSA": ({}, {"init_lora_weights": "pissa_niter_16"}, "initial_needed"),
    "CorDA": ({}, {"init_lora_weights": "corda"}, "initial_needed"),
    "LoRA-GA": ({}, {"init_lora_weights": "lora_ga"}, "initial_needed"),
    "unknown field": ({}, {"use_magic": True}, "adapter_unknown_field"),
    "two variants": ({}, {"use_dora": True, "use_qalora": True}, "adapter_variants"),
    "another type": ({}, {"peft_type": "LOHA"}, "peft_type"),
    "wrong value": ({}, {"r": "four"}, "adapter_config"),
    "trained bias": (extra(f"{Q0}.base_layer.bias", 64), {"bias": "all"}, "adapter_bias"),
    "trained norm": (extra("model.norm.weight", 64), {"modules_to_save": ["model.norm"]}, "adapter_replaces_module"),
    "trained head": (extra("lm_head.weight", 256, 64), {"modules_to_save": HEAD}, "adapter_replaces_module"),
    "saved head missing": ({}, {"modules_to_save": HEAD}, "adapter_incomplete"),
    "copy of the base": (extra(f"{Q0}.base_layer.weight", 64, 64), {}, "adapter_base_copy"),
    "DoRA without its flag": (extra(f"{Q0}.lora_magnitude_vector", 64), {}, "adapter_tensor"),
    "DoRA without its tensors": ({}, {"use_dora": True}, "adapter_incomplete"),
    "experts": (extra("model.layers.0.mlp.experts.lora_A.weight", 8, 64), {}, "adapter_tensor"),
    "shards": (extra(f"{Q0}.lora_B.weight", 32, 4), {"megatron_config": {"tp": 2}}, "adapter_shape"),
    "blocks nobody chose": ({}, {"use_bdlora": {"nblocks": 2}}, "adapter_config"),
    "undivided": ({}, {"use_bdlora": {"nblocks": 3, "target_modules_bd_a": ["proj"]}}, "adapter_tensor_shape"),
    "MLX": (extra("model.layers.0.self_attn.q_proj.lora_a", 64, 4), {}, "adapter_tensor"),
    "several": ({}, {"arrow_config": {"k": 1}, "init_lora_weights": "corda"}, "adapter_unsupported"),
}
"""Tensors beside plain ones, settings, and the code of the refusal."""


@pytest.mark.parametrize("name", GOLDEN)
def test_refusals_and_their_codes(tmp_path: Path, name: str) -> None:
    """The golden list: what cannot be honoured exactly, by the code programs know it by, with a remedy."""
    tensors, config, code = GOLDEN[name]
    with pytest.raises(AdapterError) as caught:
        peft_reader.read(save(tmp_path, plain(TINY, rank=4) | tensors, **config), TINY)
    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{Q0}.lora_magnitude_vector", '"use_dora": true'),
        (f"{Q0}.lora_magnitude_vector", "torchtune"),
        ("transformer.h.0.attn.c_attn.lora_A.weight", "GPT-2"),
        ("model.layers.0.mlp.experts.0.up_proj.lora_A.weight", "edgelora runs Llama bases"),
    ],
)
def test_the_likeliest_cause_is_told(tmp_path: Path, name: str, said: str) -> None:
    """torchtune's DoRA, which does not say that it is one, and adapters of other architectures."""
    with pytest.raises(AdapterUnsupported) as caught:
        peft_reader.read(save(tmp_path, plain(TINY, rank=4) | extra(name, 64)), TINY)
    assert said in str(caught.value)


def test_settings_and_tensors_are_refused_together(tmp_path: Path) -> None:
    """One error names the field, the tensor and what is missing beside them."""
    tensors = plain(TINY, rank=4) | extra(f"{Q0}.lora_C.weight", 4) | extra(f"{Q0}.base_layer.weight", 64, 64)
    with pytest.raises(AdapterUnsupported) as caught:
        peft_reader.read(save(tmp_path, tensors, arrow_config={"k": 1}, init_lora_weights="pissa"), TINY)
    for word in ("arrow_config", "lora_C", "base_layer", "pissa"):
        assert word in caught.value.what
    assert "--base-weights" in caught.value.remedy and "--initial" in caught.value.remedy


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_quantized_bases_give_nothing_exact(tmp_path: Path, name: str) -> None:
    """What was taken out of the trained weights is not in the quantized ones."""
    with pytest.raises(AdapterUnsupported, match="Q4_K") as caught:
        folder = save(tmp_path, plain(TINY, rank=4), init_lora_weights=name)
        peft_reader.read(folder, TINY, reading=ReadOptions(weights=tiny_base(TINY, seed=1, exact=False)))
    assert caught.value.code == "base_not_exact"


def test_weights_of_another_base(tmp_path: Path) -> None:
    """Their shape is compared first."""
    other = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=4, head_dim=16, ffn=128, vocab=256, tied=False)
    with pytest.raises(AdapterIncompatible) as caught:
        peft_reader.read(
            save(tmp_path, plain(TINY, rank=4)), TINY, reading=ReadOptions(weights=tiny_base(other, seed=1))
        )
    assert caught.value.code == "base_mismatch"


@pytest.mark.parametrize(
    "change", [{"lora_alpha": 4}, {"target_modules": ["q_proj"]}, {"r": 2}, {"use_rslora": True}], ids=str
)
def test_initial_adapters_of_another_training(tmp_path: Path, change: dict[str, Any]) -> None:
    """Another scale, rank or module means another start."""
    save(tmp_path / "last", plain(TINY, rank=4), init_lora_weights="pissa")
    first = plain(TINY, rank=change.get("r", 4))
    if "target_modules" in change:
        first = {name: values for name, values in first.items() if "q_proj" in name}
    save(tmp_path / "first", first, **change)
    with pytest.raises(AdapterCorrupt) as caught:
        peft_reader.read(tmp_path / "last", TINY, reading=ReadOptions(initial=tmp_path / "first"))
    assert caught.value.code == "initial_mismatch"


def test_doubtful_components_are_taken_only_when_asked(tmp_path: Path) -> None:
    """A base whose singular values coincide cannot be decomposed as training did: refused, or reported."""
    weights = tiny_base(TINY, seed=1)
    weights._tensors = dict(weights._tensors) | {f"{Q0}.weight": np.eye(64, dtype=np.float32)}
    save(tmp_path, plain(TINY, rank=4), init_lora_weights="pissa")
    with pytest.raises(AdapterUnsupported) as caught:
        peft_reader.read(tmp_path, TINY, reading=ReadOptions(weights=weights))
    assert (caught.value.code, caught.value.param) == ("decomposition_doubtful", Q0)
    adapter = peft_reader.read(tmp_path, TINY, reading=ReadOptions(weights=weights, allow_approximate=True))
    assert "uncertain by" in adapter.metadata["treatment"]


def test_a_scale_of_zero_is_exact_and_cannot_have_started_from_a_base(tmp_path: Path) -> None:
    """alpha 0 switches an adapter off; an initialisation would have divided by it."""
    adapter = peft_reader.read(save(tmp_path / "off", plain(TINY, rank=4), lora_alpha=0), TINY)
    assert {pair.scale for pair in adapter.pairs.values()} == {0.0}
    save(tmp_path / "pissa", plain(TINY, rank=4), lora_alpha=0, init_lora_weights="pissa")
    with pytest.raises(AdapterUnsupported, match="divided"):
        peft_reader.read(tmp_path / "pissa", TINY, reading=ReadOptions(weights=tiny_base(TINY, seed=1)))
