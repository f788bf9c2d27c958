"""peft_config and peft_rules: the schema is closed, and scales are PEFT's."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from edgelora_converters.lora.adapter import Target
from edgelora_converters.peft import target_rules
from edgelora_converters.peft.config import HARMLESS, MUST_BE_OFF, PeftConfig, parse_config, read_fields
from edgelora_converters.peft.forms import BlockDiagonal
from edgelora_converters.peft.target_rules import scales, selected
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported, EdgeloraError
from edgelora_models.modules import LINEAR_MODULES
from tests.support.adapters import peft_config
from tests.support.fuzz import mutations

Q0 = "model.layers.0.self_attn.q_proj"
READ = {
    *(
        "r",
        "lora_alpha",
        "use_rslora",
        "alora_invocation_tokens",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
    ),
    *("layers_to_transform", "layers_pattern", "peft_type", "bias", "init_lora_weights"),
    *("target_parameters", "modules_to_save", "use_dora", "lora_bias", "kasa_config", "use_bdlora", "use_qalora"),
    *("qalora_group_size", "trainable_token_indices"),
}
EVERY_FIELD = READ | HARMLESS | MUST_BE_OFF.keys()


def config(**fields: Any) -> PeftConfig:
    return parse_config(peft_config(rank=8, alpha=16, targets=["q_proj"], **fields))


def refused(**fields: Any) -> AdapterUnsupported:
    with pytest.raises(AdapterUnsupported) as caught:
        config(**fields)
    return caught.value


def test_every_field_is_in_one_class() -> None:
    """Each field PEFT 0.21.2 writes is read, harmless or must be off: 42 of LoraConfig, peft_version among them."""
    assert len(EVERY_FIELD) == len(READ) + len(HARMLESS) + len(MUST_BE_OFF) == 42
    assert peft_config(rank=1, alpha=1, targets=[]).keys() <= EVERY_FIELD


@pytest.mark.torch
def test_no_field_of_peft_is_forgotten() -> None:
    """The installed PEFT has no field this schema does not know."""
    peft = pytest.importorskip("peft")
    assert peft.LoraConfig.__dataclass_fields__.keys() <= EVERY_FIELD


def test_all_offending_fields_stand_in_one_error() -> None:
    """A user sees everything that is wrong at once, each with its field, value and remedy."""
    error = refused(use_rslora=3, arrow_config={"top_k": 3}, r=0, shiny_new_thing=3, bias="some")
    for name in ("use_rslora", "arrow_config", "r", "shiny_new_thing", "bias"):
        assert f"{name}: " in error.what
        assert f"{name}: " in error.remedy
    assert error.param == "r, use_rslora, bias, arrow_config, shiny_new_thing"
    assert error.code == "adapter_unsupported"


@pytest.mark.parametrize("name", MUST_BE_OFF)
def test_unsupported_features_are_refused_by_name(name: str) -> None:
    """Every field that must be off is refused when it is on, and accepted in all its empty forms."""
    error = refused(**{name: {"some": "value"}})
    assert (error.param, error.code) == (name, MUST_BE_OFF[name][0])
    for empty in (None, False, "", [], {}):
        config(**{name: empty})


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_harmless_fields_may_say_anything(name: str) -> None:
    """Fields that do not change the result are not looked at."""
    config(**{name: {"some": ["value"]}})


@pytest.mark.parametrize("value", [0, 1, 0.0, "x", [0], True])
def test_unknown_fields_must_be_empty(value: Any) -> None:
    """A field PEFT does not have is refused unless it is plainly empty."""
    assert refused(from_the_future=value).param == "from_the_future"


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None, 5000])
def test_ranks_are_whole_numbers_above_zero(value: Any) -> None:
    """r and every rank pattern must be an int in range; nothing is defaulted."""
    assert refused(r=value).param == "r"
    assert refused(rank_pattern={"q_proj": value}).param == "rank_pattern"


@pytest.mark.parametrize("value", ["16", True, None, 10**400, 1e300, -(10**400), math.nan, math.inf])
def test_alphas_are_finite(value: Any) -> None:
    """An alpha is a number within reason."""
    assert refused(lora_alpha=value).param == "lora_alpha"
    assert refused(alpha_pattern={"q_proj": value}).param == "alpha_pattern"


@pytest.mark.parametrize("alpha", [0, 0.0, -16])
def test_any_finite_alpha_is_the_scale(alpha: float) -> None:
    """PEFT takes 0, which switches an adapter off, and negative ones; llama.cpp's own converter makes 1 of 0."""
    assert scales(config(lora_alpha=alpha), {Q0: 8}) == {Q0: alpha / 8}
    assert scales(config(alpha_pattern={"q_proj": alpha}), {Q0: 8}) == {Q0: alpha / 8}


def test_missing_rank_and_alpha_are_refused() -> None:
    """PEFT would take its defaults; that is a guess about what was trained."""
    with pytest.raises(AdapterUnsupported) as caught:
        parse_config({"peft_type": "LORA", "target_modules": ["q_proj"]})
    assert caught.value.param == "r, lora_alpha"


@pytest.mark.parametrize("kind", ["LOHA", "lora", None, 7, ["LORA"]])
def test_other_kinds_are_refused(kind: Any) -> None:
    """Only peft_type LORA and ADALORA."""
    assert refused(peft_type=kind).param == "peft_type"


@pytest.mark.parametrize(
    ("value", "known"),
    [
        *((name, name) for name in ("pissa", "olora", "corda", "lora_ga")),
        *(("PiSSA", "pissa"), ("pissa_niter_4", "pissa_niter")),
    ],
)
def test_initialisations_that_change_the_base_are_kept(value: str, known: str) -> None:
    """What they took out of the base is for the treatment to know."""
    assert config(init_lora_weights=value).initialisation == known


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("loftq", "adapter_loftq"),
        ("unheard_of", "adapter_init"),
        ("pissa_niter_x", "adapter_init"),
        (3, "adapter_init"),
    ],
)
def test_initialisations_nobody_can_undo_are_refused(value: Any, code: str) -> None:
    """LoftQ replaced the base; an unknown one may have."""
    error = refused(init_lora_weights=value)
    assert (error.param, error.code) == ("init_lora_weights", code)


@pytest.mark.parametrize("value", [True, False, None, "gaussian", "Gaussian", "orthogonal", "eva", "mica"])
def test_initialisations_that_leave_the_base_alone_are_accepted(value: Any) -> None:
    """They only set where training began."""
    assert config(init_lora_weights=value).initialisation is None


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True, "velora_config": {"num_groups": 64}},
        {"kasa_config": {"beta": 0.1}, "use_bdlora": {"nblocks": 2}},
        {"init_lora_weights": "mica", "use_dora": True},
        {"use_qalora": True, "alora_invocation_tokens": [1]},
    ],
)
def test_variants_do_not_come_together(fields: dict[str, Any]) -> None:
    """PEFT makes no adapter with two variants: such a configuration was edited."""
    assert refused(**fields).code == "adapter_variants"


@pytest.mark.parametrize("bias", ["none", "all", "lora_only", None])
def test_training_biases_is_nothing_on_a_llama(bias: Any) -> None:
    """A Llama has no biases; tensors of any would be refused by name."""
    config(bias=bias)


def test_variants_are_read() -> None:
    """Each setting that changes how factors are stored has a value of its own."""
    blocks = config(use_bdlora={"target_modules_bd_a": ["o_proj"], "target_modules_bd_b": None, "nblocks": 4})
    assert blocks.blocks == BlockDiagonal(a_in=("o_proj",), b_in=(), blocks=4, strict=True)
    assert config(use_qalora=True, qalora_group_size=32).pool == 32
    assert config(use_qalora=False, qalora_group_size=None).pool == 1
    assert config(kasa_config={"beta": 1e-4, "gamma": 1e-3}).kasa
    assert config(target_parameters=["q_proj.weight"]).target_parameters == ("q_proj.weight",)
    assert config(use_dora=True).use_dora and config(lora_bias=True).lora_bias


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("use_bdlora", True), ("use_bdlora", {"nblocks": 0}), ("use_bdlora", {"nblock": 2})),
        *(("use_bdlora", {"target_modules_bd_a": "o_proj"}), ("use_bdlora", {"match_strict": "no"})),
        *(("kasa_config", True), ("target_parameters", "q_proj.weight"), ("modules_to_save", "lm_head")),
        *(
            ("use_rslora", 1),
            ("rank_pattern", []),
            ("alpha_pattern", "x"),
            ("target_modules", 3),
            ("target_modules", [1]),
        ),
        *(("exclude_modules", {"a": 1}), ("layers_to_transform", "all"), ("layers_to_transform", [-1])),
        *(
            ("layers_to_transform", [True]),
            ("layers_pattern", "h"),
            ("rank_pattern", {"(": 8}),
            ("target_modules", "("),
        ),
    ],
)
def test_wrong_types_are_refused_by_name(name: str, value: Any) -> None:
    """A field of another type is named."""
    assert refused(**{name: value}).param == name


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'{"r":1,"r":2}',
        b'{"r":NaN}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"peft_type":"LORA"}' + b" " * (1 << 20),
    ],
)
def test_files_that_are_no_json_object_are_corrupt(tmp_path: Path, content: bytes) -> None:
    """Bad JSON, bad UTF-8, duplicate keys and oversize are AdapterCorrupt."""
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(AdapterCorrupt):
        parse_config(read_fields(tmp_path))


def test_scale_is_alpha_over_rank_or_its_root() -> None:
    """alpha / r, and alpha / sqrt(r) with rsLoRA."""
    assert scales(config(), {Q0: 8}) == {Q0: 2.0}
    assert scales(config(use_rslora=True), {Q0: 8}) == {Q0: 16 / math.sqrt(8)}


@pytest.mark.parametrize(
    ("key", "hit"),
    [
        *(("q_proj", True), ("self_attn.q_proj", True), (Q0, True), ("^" + Q0.replace(".", r"\."), True)),
        *((r"model\.layers\.[0-3]\..*", True), (r"layers\.\d+\.self_attn\.(q|k)_proj", True)),
        *(
            ("_proj", False),
            ("proj", False),
            ("attn.q_proj", False),
            ("layers.1.self_attn.q_proj", False),
            ("^q_proj", False),
        ),
    ],
)
def test_patterns_match_whole_parts_of_a_path(key: str, hit: bool) -> None:
    """A key matches the path or its end after a dot, as a regular expression (PEFT 0.15 and later)."""
    assert scales(config(alpha_pattern={key: 32}), {Q0: 8})[Q0] == (4.0 if hit else 2.0)
    assert scales(config(rank_pattern={key: 4}), {Q0: 4 if hit else 8})[Q0] == (4.0 if hit else 2.0)


@pytest.mark.parametrize(
    "key", ["q_proj", "q.proj", "self_attn.q_proj", "xself_attn.q_proj", Q0, "0" + Q0, ".q_proj", "....."]
)
def test_plain_keys_are_regular_expressions_too(key: str) -> None:
    """The shortcut for plain names agrees with PEFT's own expression, dots matching any character."""
    for path in (Q0, Q0.replace("q_proj", "qXproj"), "q_proj", "aq_proj"):
        hit = re.match(rf"(.*\.)?({key})$", path) is not None
        assert scales(config(alpha_pattern={key: 32}), {path: 8})[path] == (4.0 if hit else 2.0)


def test_the_first_matching_key_wins_in_each_pattern() -> None:
    """Keys are tried in the file's order, ranks and alphas apart."""
    both = config(rank_pattern={r".*q_proj": 4, "q_proj": 2}, alpha_pattern={"q_proj": 1, r".*q_proj": 3})
    assert scales(both, {Q0: 4}) == {Q0: 0.25}


def test_a_rank_that_disagrees_is_corrupt() -> None:
    """The scale would be undefined."""
    with pytest.raises(AdapterCorrupt, match=r"rank 4.*gives it rank 8") as caught:
        scales(config(), {Q0: 4})
    assert caught.value.param == Q0


def test_old_files_whose_patterns_are_ambiguous_are_refused() -> None:
    """Before 0.14 a key of rank_pattern could hide one of alpha_pattern; without a version nobody knows."""
    patterns: dict[str, Any] = {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"self_attn.q_proj": 4}}
    old = config(peft_version=None, **patterns)
    with pytest.raises(AdapterUnsupported, match=r"4 or 16"):
        scales(old, {Q0: 8})
    assert scales(config(**patterns), {Q0: 8}) == {Q0: 0.5}


def test_ranks_of_the_tensors_decide_between_meanings() -> None:
    """A meaning under which a tensor would have another rank is ruled out."""
    old = config(peft_version=None, rank_pattern={"^model.*": 4}, alpha_pattern={"^model.*": 4})
    assert scales(old, {Q0: 4}) == {Q0: 1.0}  # before 0.15 the key could not match, and the rank would be 8
    assert scales(old, {Q0: 8}) == {Q0: 2.0}


def test_full_paths_mean_the_same_in_every_version() -> None:
    """EVA and mergekit write them, often without a version."""
    old = config(peft_version=None, rank_pattern={Q0: 4}, alpha_pattern={Q0: 4})
    assert scales(old, {Q0: 4}) == {Q0: 1.0}


def test_costly_expressions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file cannot keep the machine busy with its expressions."""
    monkeypatch.setattr(target_rules, "MAX_STEPS", 50)
    with pytest.raises(AdapterUnsupported, match="too long"):
        scales(config(alpha_pattern={r"(\w+)+(\w+)+!": 4}), {Q0: 8})
    with pytest.raises(AdapterUnsupported, match="too long"):
        selected(config(target_modules=r"(.*)+(.*)+!"), TARGETS)


TARGETS = [Target(layer, module) for layer in range(3) for module in LINEAR_MODULES]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {f"model.layers.{n}.self_attn.q_proj" for n in range(3)}),
        ({"layers_to_transform": [0, 2]}, {f"model.layers.{n}.self_attn.q_proj" for n in (0, 2)}),
        ({"layers_to_transform": 1, "layers_pattern": ["layers"]}, {"model.layers.1.self_attn.q_proj"}),
        ({"exclude_modules": [Q0]}, {f"model.layers.{n}.self_attn.q_proj" for n in (1, 2)}),
        ({"exclude_modules": r".*layers\.[12].*"}, {Q0}),
        ({"target_modules": r".*\.0\.self_attn\.(q|k)_proj"}, {Q0, "model.layers.0.self_attn.k_proj"}),
        ({"target_modules": [Q0], "layers_to_transform": [1]}, {Q0}),
        ({"target_modules": "q_proj"}, set()),
    ],
)
def test_selection_is_pefts(fields: dict[str, Any], expected: set[str]) -> None:
    """target_modules, exclude_modules and layers_to_transform select as PEFT's check_target_module_exists does."""
    chosen = selected(config(**fields), TARGETS)
    assert chosen is not None
    assert {target.hf_path for target in chosen} == expected


def test_all_linear_and_unsaid_selections() -> None:
    """`all-linear` is all seven; null says nothing."""
    assert selected(config(target_modules="all-linear"), TARGETS) == frozenset(TARGETS)
    assert selected(config(target_modules=None), TARGETS) is None


def adalora(**fields: Any) -> PeftConfig:
    own = {"init_r": 4, "target_r": 2, "tinit": 0, "tfinal": 2, "deltaT": 1, "beta1": 0.85, "beta2": 0.85}
    more = {"orth_reg_weight": 0.5, "total_step": 10, "rank_pattern": None, "peft_type": "ADALORA"}
    return config(**(own | more | fields))


def test_adalora_divides_by_the_rank_it_began_with() -> None:
    """The masks say which ranks are left; r, rsLoRA and alpha patterns mean nothing to it."""
    masks = {f"{Q0}.lora_E": [True, False, True, False]}
    assert scales(adalora(), {Q0: 4}) == {Q0: 16 / (4 + 1e-5)}
    found = adalora(rank_pattern=masks, use_rslora=True, r=0, alpha_pattern={"q_proj": 3})
    assert scales(found, {Q0: 2}) == {Q0: 16 / (4 + 1e-5)}
    with pytest.raises(AdapterCorrupt, match=r"rank 4.*gives it rank 2"):
        scales(found, {Q0: 4})


def test_adalora_without_alpha_multiplies_by_its_rank() -> None:
    """By which, PEFT's training and loading disagree once ranks were given up: refused then."""
    assert scales(adalora(lora_alpha=-1), {Q0: 4}) == {Q0: 4 / (4 + 1e-5)}
    masks = {f"{Q0}.lora_E": [True, False, True, False]}
    with pytest.raises(AdapterUnsupported, match="2 or 4"):
        scales(adalora(lora_alpha=0, rank_pattern=masks), {Q0: 2})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("init_r", 0), ("init_r", None), ("rank_pattern", {"q_proj": [True]}), ("rank_pattern", {"q.lora_E": 3})),
        *(("use_dora", True), ("kasa_config", {"beta": 1}), ("target_parameters", ["x"]), ("lora_bias", True)),
    ],
)
def test_what_adalora_has_not_is_refused(name: str, value: Any) -> None:
    """Its own fields are checked, and LoRA's variants are none of it."""
    with pytest.raises(AdapterUnsupported) as caught:
        adalora(**{name: value})
    assert caught.value.param == name


def test_parameters_are_selected_and_matched_by_their_own_path() -> None:
    """target_parameters names weights: patterns see the weight's path, and modules none is selected by."""
    chosen = config(target_modules=[], target_parameters=["layers.0.self_attn.q_proj.weight"])
    assert selected(chosen, TARGETS) == {TARGETS[0]}
    assert selected(config(target_modules=None, target_parameters=["q_proj.bias"]), TARGETS) == frozenset()
    both = config(target_parameters=["q_proj.weight"], alpha_pattern={"q_proj": 4, "q_proj.weight": 8})
    assert scales(both, {Q0: 8}) == {Q0: 1.0}


def test_mutated_configurations_never_escape_the_error_tree(tmp_path: Path) -> None:
    """Damaged files either parse or raise an EdgeloraError, nothing else."""
    fields = peft_config(rank=8, alpha=16, targets=["q_proj"], rank_pattern={r".*\.0\.q_proj": 8})
    refusals = 0
    for mutant in mutations(json.dumps(fields).encode(), seed=2, count=500):
        (tmp_path / "adapter_config.json").write_bytes(mutant)
        try:
            selected(parse_config(read_fields(tmp_path)), TARGETS)
        except EdgeloraError:
            refusals += 1
    assert 250 < refusals < 500
