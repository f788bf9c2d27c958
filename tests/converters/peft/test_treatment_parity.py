"""Every variant of LoRA that is read gives, on the untouched base, what real PEFT computes. Needs torch and PEFT.

PEFT runs on whatever base its initialisation left behind; the oracle runs the adapter as read on the base as it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgelora_converters.convert.convert import convert
from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.peft import reader
from edgelora_converters.peft.forms import Form
from edgelora_converters.peft.read_options import ReadOptions
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.errors import AdapterUnsupported
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.shape import LlamaShape
from tests.support.adapters import ALL_MODULES
from tests.support.bases import MIN_VOCAB, write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS
from tests.support.native import native_logits, native_model
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle, write_tiny_hf
from tests.support.peft_oracle import SEED, peft_logits, torch_base, trained

# PEFT and transformers deprecate each other's calls, and warn of settings on purpose; that is theirs to settle.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

LIMIT = 5e-5
EQUAL_HEADS = LlamaShape(layers=2, hidden=48, heads=3, kv_heads=3, head_dim=16, ffn=80, vocab=MIN_VOCAB, tied=False)
SHAPES = pytest.mark.parametrize("shape", [GQA, WIDE_HEADS, EQUAL_HEADS], ids=["gqa", "wide-heads-tied", "equal-heads"])


def lora(**settings: Any) -> Any:
    from peft import LoraConfig

    defaults: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": list(ALL_MODULES), "task_type": "CAUSAL_LM"}
    return LoraConfig(**(defaults | settings))


def sub_config(name: str, **settings: Any) -> Any:
    from peft.tuners.lora import config

    return getattr(config, name)(**settings)


def check(adapter: LoraAdapter, shape: LlamaShape, wanted: np.ndarray[Any, Any]) -> None:
    """The oracle on the original base gives PEFT's logits, and without the adapter it does not."""
    oracle = tiny_oracle(shape, seed=SEED)
    assert distance(oracle.logits(TOKENS, deltas(adapter)), wanted) < LIMIT
    assert distance(oracle.logits(TOKENS), wanted) > 0.005


PLAIN_VARIANTS: dict[str, Any] = {
    "velora": lambda: lora(velora_config=sub_config("VeloraConfig", num_groups=4)),
    "monteclora": lambda: lora(monteclora_config=sub_config("MontecloraConfig")),
    "mica": lambda: lora(init_lora_weights="mica"),
    "biases": lambda: lora(bias="all"),
    "fan_in_fan_out": lambda: lora(fan_in_fan_out=True),
    "negative alpha": lambda: lora(lora_alpha=-6),
    "parameters": lambda: lora(
        target_modules=[],
        target_parameters=["q_proj.weight", "layers.1.mlp.down_proj.weight"],
        rank_pattern={"q_proj.weight": 2, "down_proj": 8},
        alpha_pattern={r"layers\.1\..*": 3},
        init_lora_weights=False,
    ),
    "blocks": lambda: lora(
        use_bdlora=sub_config(
            "BdLoraConfig",
            target_modules_bd_a=["o_proj", "down_proj"],
            target_modules_bd_b=["q_proj", "layers.1.mlp.up"],
            nblocks=2,
            match_strict=False,
        ),
        use_rslora=True,
    ),
}


@SHAPES
@pytest.mark.parametrize("variant", PLAIN_VARIANTS)
def test_variants_that_are_plain_in_the_end(tmp_path: Path, shape: LlamaShape, variant: str) -> None:
    """Their own tensors and settings leave nothing but B @ A."""
    model = trained(torch_base(shape), PLAIN_VARIANTS[variant](), tmp_path)
    check(reader.read(tmp_path, shape), shape, peft_logits(model))


@SHAPES
def test_adalora(tmp_path: Path, shape: LlamaShape) -> None:
    """Singular values, masks and AdaLoRA's own scale, after real steps of it have given up ranks."""
    import torch
    from peft import AdaLoraConfig, get_peft_model

    schedule = {"init_r": 4, "target_r": 2, "total_step": 10, "tinit": 0, "tfinal": 2, "deltaT": 1}
    config = AdaLoraConfig(**schedule, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(torch_base(shape), config)
    ids = torch.tensor([TOKENS])
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    for step in range(10):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    masks = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    assert {sum(mask) for mask in masks.values()} != {4}
    check(reader.read(tmp_path, shape), shape, peft_logits(model.eval()))


def start(name: str, shape: LlamaShape, **settings: Any) -> tuple[Any, Any]:
    """The base and a configuration for an initialisation that changes it, prepared as PEFT asks."""
    import torch

    model, ids = torch_base(shape), torch.tensor([TOKENS])
    config = lora(init_lora_weights=name, **settings)
    if name == "corda":
        for module in (m for m in model.modules() if isinstance(m, torch.nn.Linear)):
            # What PEFT's preprocessing of some data leaves: any components with positive values will do.
            out, width = module.weight.shape
            module.eigens = SimpleNamespace(U_WC=torch.randn(out, 4), S_WC=torch.rand(4), V_WC=torch.randn(width, 4))
    if name == "lora_ga":
        from peft.tuners.lora.loraga import preprocess_loraga

        config.lora_ga_config = sub_config("LoraGAConfig")
        preprocess_loraga(model, config, lambda: model(ids, labels=ids).loss.backward())
        model.zero_grad()
    return model, config


CHANGING = ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga"]


@SHAPES
@pytest.mark.parametrize("name", CHANGING)
def test_initialisations_that_changed_the_base(tmp_path: Path, shape: LlamaShape, name: str) -> None:
    """With the adapter as it was saved before training, the delta is that of both: exact on the base as it was."""
    model, config = start(name, shape, use_rslora=True)
    wanted = peft_logits(trained(model, config, tmp_path / "last", initial=tmp_path / "first"))
    adapter = reader.read(tmp_path / "last", shape, reading=ReadOptions(initial=tmp_path / "first"))
    check(adapter, shape, wanted)
    assert {pair.rank for pair in adapter.pairs.values()} == {8}
    with pytest.raises(AdapterUnsupported):
        reader.read(tmp_path / "last", shape)


@SHAPES
@pytest.mark.parametrize("name", ["pissa", "olora", "kasa"])
def test_what_can_be_computed_anew_from_the_base(tmp_path: Path, shape: LlamaShape, name: str) -> None:
    """PiSSA by singular values, OLoRA by QR, KaSA by the smallest: from a folder or a GGUF of the same weights."""
    patterns = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"gate_proj": 3}}
    if name == "kasa":
        model = trained(torch_base(shape), lora(kasa_config=sub_config("KasaConfig"), **patterns), tmp_path / "last")
    else:
        model = trained(*start(name, shape, **patterns), tmp_path / "last")
    wanted = peft_logits(model)
    folder = write_tiny_hf(tmp_path / "hf", shape, seed=SEED)
    for source in (folder, write_tiny_gguf(tmp_path / "base.gguf", shape, seed=SEED)):
        with open_base_weights(source) as weights:
            adapter = reader.read(tmp_path / "last", shape, reading=ReadOptions(weights=weights))
        check(adapter, shape, wanted)


def test_the_whole_chain(tmp_path: Path) -> None:
    """PiSSA as trained, converted with the base's weights, run by llama.cpp on the original base."""
    model, config = start("pissa", GQA)
    wanted = peft_logits(trained(model, config, tmp_path / "last"))
    base = BaseFingerprint("llama", GQA, vocabulary="", template="")
    gguf = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=SEED)
    with open_base_weights(gguf) as weights:
        convert(tmp_path / "last", tmp_path / "a.gguf", to="gguf", base=base, reading=ReadOptions(weights=weights))
    with native_model(gguf) as native:
        assert distance(native_logits(native, TOKENS, tmp_path / "a.gguf"), wanted) < LIMIT


@pytest.mark.parametrize("use_rslora", [False, True])
def test_adapters_that_peft_converted_itself(tmp_path: Path, use_rslora: bool) -> None:
    """`path_initial_model_for_weight_conversion` writes a plain adapter of twice the rank: read as such."""
    model, config = start("pissa", GQA, use_rslora=use_rslora)
    tuned = trained(model, config, tmp_path / "last")
    fresh, again = start("pissa", GQA, use_rslora=use_rslora)
    trained(fresh, again, tmp_path / "ignored", initial=tmp_path / "first")
    path = tmp_path / "first" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": True}))
    wanted = peft_logits(tuned)
    tuned.save_pretrained(
        str(tmp_path / "converted"),
        path_initial_model_for_weight_conversion=str(tmp_path / "first"),
        save_embedding_layers=False,
    )
    check(reader.read(tmp_path / "converted", GQA), GQA, wanted)


@pytest.mark.parametrize("group", [4, 16])
def test_qalora_is_spread_out(group: int) -> None:
    """PEFT offers QALoRA on GPTQ layers alone: its own forward, called on a layer, is the plain factors'."""
    import torch
    from peft.tuners.lora.layer import Linear
    from peft.tuners.lora.variants import QALoraLinearVariant

    torch.manual_seed(SEED)
    layer = Linear(torch.nn.Linear(64, 48, bias=False), "default", lora(r=3, lora_alpha=5), r=3, lora_alpha=5)
    QALoraLinearVariant.init(layer, "default", lora(use_qalora=True, qalora_group_size=group))
    a, b = (factor["default"].weight.detach() for factor in (layer.lora_A, layer.lora_B))
    b.normal_()
    x = torch.randn(7, 64)
    found = QALoraLinearVariant.forward(layer, "default", x, torch.zeros(7, 48)).detach().numpy()
    form = Form(pool=group)
    delta = 5 / 3 * form.gain(64) * form.plain_b(b.numpy()) @ form.plain_a(a.numpy())
    np.testing.assert_allclose(found, x.numpy() @ delta.T, rtol=1e-4, atol=1e-4)


def test_copies_that_peft_saves_along_are_the_bases(tmp_path: Path) -> None:
    """`save_embedding_layers` copies embedding and head: with the base they are known as its own, and left out."""
    from peft import get_peft_model

    model = get_peft_model(torch_base(GQA), lora(init_lora_weights=False, modules_to_save=["norm"])).eval()
    model.save_pretrained(str(tmp_path / "a"), save_embedding_layers=True)
    with pytest.raises(AdapterUnsupported):
        reader.read(tmp_path / "a", GQA)
    with open_base_weights(write_tiny_hf(tmp_path / "hf", GQA, seed=SEED)) as weights:
        adapter = reader.read(tmp_path / "a", GQA, reading=ReadOptions(weights=weights))
    assert "embed_tokens" in adapter.metadata["treatment"] and "model.norm" in adapter.metadata["treatment"]
    check(adapter, GQA, peft_logits(model))
