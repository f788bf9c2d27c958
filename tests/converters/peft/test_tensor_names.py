"""peft.tensor_names: every producer's spelling comes to one module and one leaf, and nothing is mistaken for
another.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora_converters.peft.tensor_names import Leaf, Names, kind_of, listed, sort_names
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported

Q0 = "model.layers.0.self_attn.q_proj"
LEAVES: tuple[Leaf, ...] = get_args(Leaf)


def only(name: str) -> tuple[str, Leaf]:
    """The module and leaf of a file's only tensor."""
    names = sort_names([name])
    assert names.unknown == ()
    ((module, leaves),) = names.modules.items()
    (leaf,) = leaves
    assert leaves[leaf] == name
    return module, leaf


@pytest.mark.parametrize(
    "name",
    [
        f"base_model.model.{Q0}.lora_A.weight",
        f"{Q0}.lora_A.weight",
        f"base_model.model.{Q0}.lora_A.default.weight",
        f"base_model.model.{Q0}.lora_A.medical-faq.weight",
        f"base_model.model.{Q0}.lora_A.weight.weight",
        f"_orig_mod.base_model.model.{Q0}.lora_A.weight",
        f"base_model.model._orig_mod.{Q0}.lora_A.weight",
        f"module.base_model.model.{Q0}.lora_A.default.weight",
        f"_fsdp_wrapped_module.base_model.model.{Q0}.lora_A.weight",
        "base_model.model.model.layers.0._fsdp_wrapped_module.self_attn.q_proj._fsdp_wrapped_module.lora_A.weight",
        "base_model.model.model.layers.0._checkpoint_wrapped_module.self_attn.q_proj.lora_A.default.weight",
        "base_model.model.model.layers.0._orig_mod._checkpoint_wrapped_module.self_attn.q_proj.lora_A.weight",
        "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
        f"base_model.model.{Q0}.lora_A",
        f"base_model.model.{Q0}.lora_A.default",
    ],
)
def test_every_producers_spelling_of_one_factor(name: str) -> None:
    """Prefix or none, adapter names, wrappers, multimodal paths, AdaLoRA's bare parameters."""
    assert only(name) == (Q0, "lora_A")


@pytest.mark.parametrize(
    ("tail", "module", "leaf"),
    [
        (f"{Q0}.lora_B.bias", Q0, "lora_B.bias"),
        (f"{Q0}.lora_B.default.bias", Q0, "lora_B.bias"),
        (f"{Q0}.lora_magnitude_vector", Q0, "lora_magnitude_vector"),
        (f"{Q0}.lora_magnitude_vector.default", Q0, "lora_magnitude_vector"),
        (f"{Q0}.lora_magnitude_vector.default.weight", Q0, "lora_magnitude_vector"),
        (f"{Q0}.lora_diag", Q0, "lora_diag"),
        (f"{Q0}.lora_E.default", Q0, "lora_E"),
        (f"{Q0}.ranknum.default", Q0, "ranknum"),
        (f"{Q0}.lora_velora_embed", Q0, "lora_velora_embed"),
        (f"{Q0}.lora_monteclora_sampler.std_prior", Q0, "lora_monteclora_sampler.std_prior"),
        (f"{Q0}.lora_monteclora_sampler.x.expert_weights", Q0, "lora_monteclora_sampler.expert_weights"),
        (f"{Q0}.base_layer.weight", Q0, "base_layer.weight"),
        (f"{Q0}.base_layer.bias", Q0, "base_layer.bias"),
        (f"{Q0}.bias", Q0, "bias"),
        (f"{Q0}.modules_to_save.default.weight", Q0, "weight"),
        ("model.embed_tokens.lora_embedding_A", "model.embed_tokens", "lora_embedding_A"),
        ("model.embed_tokens.lora_embedding_B.default", "model.embed_tokens", "lora_embedding_B"),
        ("model.embed_tokens.weight", "model.embed_tokens", "weight"),
        ("model.embed_tokens.original_module.weight", "model.embed_tokens", "base_layer.weight"),
        ("model.embed_tokens.token_adapter.base_layer.weight", "model.embed_tokens", "base_layer.weight"),
        (
            "model.embed_tokens.token_adapter.trainable_tokens_delta.default",
            "model.embed_tokens",
            "token_adapter.trainable_tokens_delta",
        ),
        ("lm_head.lora_A.weight", "lm_head", "lora_A"),
        ("lm_head.modules_to_save.default.weight", "lm_head", "weight"),
        ("language_model.lm_head.weight", "lm_head", "weight"),
        ("model.norm.weight", "model.norm", "weight"),
        ("model.layers.11.post_attention_layernorm.weight", "model.layers.11.post_attention_layernorm", "weight"),
    ],
)
def test_every_leaf(tail: str, module: str, leaf: Leaf) -> None:
    """What PEFT writes beside plain factors, with and without the adapter's name."""
    assert only(f"base_model.model.{tail}") == (module, leaf)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "lora_A.weight",
        f"base_model.model.{Q0}",
        f"base_model.model.{Q0}.",
        f"base_model.model.{Q0}.lora_C.weight",
        f"base_model.model.{Q0}.lora_A.a.b.weight",
        f"base_model.model.{Q0}.lora_A..weight",
        f"base_model.model.{Q0}.lora_A.bias.x",
        f"base_model.model.{Q0}.lora_a",
        f"base_model.model.base_model.model.{Q0}.lora_A.weight",
        f"base_model.model.{Q0}.base_layer.lora_A.weight",
        f"base_model.model.{Q0}.base_layer.weight.absmax",
        "base_model.model.model.layers.00.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.-1.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.q_proj.lora_A.weight",
        "base_model.model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.score.weight",
    ],
)
def test_everything_else_is_unknown(name: str) -> None:
    """Other modules, other leaves, two models nested in each other: kept as they stand, so that an error can say so."""
    assert sort_names([name]) == Names({}, (name,), "model")


def test_names_are_sorted_by_module_and_leaf() -> None:
    """Both factors of a module lie together; unknown ones are all there."""
    names = sort_names([f"{Q0}.lora_B.weight", "odd", f"{Q0}.lora_A.weight", "lm_head.lora_A.weight", "odder"])
    assert names.modules == {
        Q0: {"lora_B": f"{Q0}.lora_B.weight", "lora_A": f"{Q0}.lora_A.weight"},
        "lm_head": {"lora_A": "lm_head.lora_A.weight"},
    }
    assert names.unknown == ("odd", "odder")
    assert names.having("lora_B") == {Q0: f"{Q0}.lora_B.weight"}
    assert [kind_of(path) for path in (Q0, "lm_head", "model.embed_tokens", "model.norm")] == [
        *("linear", "head", "embedding", "norm")
    ]


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ([f"{Q0}.lora_A.weight", f"base_model.model.{Q0}.lora_A.weight"], "adapter_tensor_twice"),
        ([f"{Q0}.lora_A.weight", f"{Q0}.lora_A.default.weight"], "adapter_tensor_twice"),
        ([f"{Q0}.lora_A.weight", f"_orig_mod.{Q0}.lora_A.weight"], "adapter_tensor_twice"),
        ([f"{Q0}.base_layer.weight", f"{Q0}.original_module.weight"], "adapter_tensor_twice"),
    ],
)
def test_two_names_of_one_tensor_are_refused(names: Iterable[str], code: str) -> None:
    """Nobody can say which of the two was meant."""
    with pytest.raises(AdapterCorrupt) as caught:
        sort_names(names)
    assert caught.value.code == code


def test_two_adapters_in_one_file_are_refused() -> None:
    """Also where they share no module; the names of both are told."""
    with pytest.raises(AdapterUnsupported, match=r"2 adapters: 'chat', 'default'") as caught:
        sort_names([f"{Q0}.lora_A.default.weight", "lm_head.lora_A.chat.weight"])
    assert caught.value.code == "adapter_many"


def test_paths_are_spelled_as_the_training_had_them() -> None:
    """PEFT's expressions matched those, so ours must."""
    old = sort_names(["base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight"])
    new = sort_names(["base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"])
    assert old.spelled(Q0) == "language_model.model.layers.0.self_attn.q_proj"
    assert new.spelled(Q0) == "model.language_model.layers.0.self_attn.q_proj"
    assert old.spelled("lm_head") == "language_model.lm_head"
    assert new.spelled("lm_head") == "lm_head"
    assert sort_names([f"{Q0}.lora_A.weight"]).spelled(Q0) == Q0


def test_two_spellings_of_the_model_are_refused() -> None:
    """One training has one model."""
    names = [f"{Q0}.lora_A.weight", "language_model.model.layers.1.self_attn.q_proj.lora_A.weight"]
    with pytest.raises(AdapterUnsupported, match="two models"):
        sort_names(names)


def test_a_listing_groups_layers_and_hides_nothing() -> None:
    """Every kind of name is there with its reason; layers of one kind count as one."""
    text = listed([*((f"model.layers.{n}.x", "odd") for n in range(32)), ("\x1b[2J", "odd"), ("y", "other")])
    assert text == "'model.layers.N.x' (32 tensors; odd); '\\x1b[2J' (odd); 'y' (other)"
    assert listed((f"t{n}", "odd") for n in range(50)).endswith("; and 10 more kinds")


@settings(deadline=None, max_examples=100)
@given(
    leaf=st.sampled_from(LEAVES),
    adapter=st.text(string.ascii_letters + string.digits + "_-", min_size=1).filter(
        lambda text: text not in ("weight", "bias", "module") and not text.startswith("_")
    ),
    wrapped=st.lists(st.sampled_from(["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]), max_size=3),
    data=st.data(),
)
def test_spellings_of_any_leaf_agree(leaf: Leaf, adapter: str, wrapped: list[str], data: st.DataObject) -> None:
    """Wherever wrappers stand and whatever the adapter is called, the module and the leaf are the same."""
    parts = f"base_model.model.{Q0}.{leaf}".split(".")
    if leaf == "lora_B.bias" or leaf.startswith("lora_monteclora"):
        parts.insert(-1, adapter)
    elif leaf not in ("weight", "bias") and not leaf.startswith("base_layer"):
        parts.append(adapter)
    for wrapper in wrapped:
        place = data.draw(st.sampled_from([0, 2, 3, 4, 5, 6, 7]))
        if parts[place - 1] != "base_model":
            parts.insert(place, wrapper)
    assert only(".".join(parts)) == (Q0, leaf)
