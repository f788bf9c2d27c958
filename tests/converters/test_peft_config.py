"""peft_config and peft_rules: the schema is closed, and scales are PEFT's."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from edgelora_converters import peft_rules
from edgelora_converters.lora import Target
from edgelora_converters.peft_config import HARMLESS, MUST_BE_OFF, PeftConfig, parse_config, read_config
from edgelora_converters.peft_rules import scales, selected
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
    "alora_invocation_tokens",
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
    error = refused(use_dora=True, modules_to_save=["lm_head"], r=0, shiny_new_thing=3, bias="all")
    for name in ("use_dora", "modules_to_save", "r", "shiny_new_thing", "bias"):
        assert f"{name}: " in error.what
        assert f"{name}: " in error.remedy
    assert error.param == "r, bias, modules_to_save, shiny_new_thing, use_dora"


@pytest.mark.parametrize("name", MUST_BE_OFF)
def test_unsupported_features_are_refused_by_name(name: str) -> None:
    """Every field that must be off is refused when it is on, and accepted in all its empty forms."""
    assert refused(**{name: {"some": "value"}}).param == name
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


@pytest.mark.parametrize("value", [0, 0.0, -16, "16", True, None, 10**400, 1e300, math.nan, math.inf])
def test_alphas_are_finite_and_above_zero(value: Any) -> None:
    """alpha 0 would switch the adapter off here and mean `no scaling` to llama.cpp: refused like other nonsense."""
    assert refused(lora_alpha=value).param == "lora_alpha"
    assert refused(alpha_pattern={"q_proj": value}).param == "alpha_pattern"


def test_missing_rank_and_alpha_are_refused() -> None:
    """PEFT would take its defaults; that is a guess about what was trained."""
    with pytest.raises(AdapterUnsupported) as caught:
        parse_config({"peft_type": "LORA", "target_modules": ["q_proj"]})
    assert caught.value.param == "r, lora_alpha"


@pytest.mark.parametrize("kind", ["LOHA", "ADALORA", "lora", None, 7, ["LORA"]])
def test_other_kinds_are_refused(kind: Any) -> None:
    """Only peft_type LORA."""
    assert refused(peft_type=kind).param == "peft_type"


@pytest.mark.parametrize("value", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "loftq", "unheard_of", 3])
def test_initialisations_that_change_the_base_are_refused(value: Any) -> None:
    """The remedy names the way to save such an adapter for the original base."""
    error = refused(init_lora_weights=value)
    assert error.param == "init_lora_weights"
    assert "path_initial_model_for_weight_conversion" in error.remedy


@pytest.mark.parametrize("value", [True, False, None, "gaussian", "Gaussian", "orthogonal", "eva", "mica"])
def test_initialisations_that_leave_the_base_alone_are_accepted(value: Any) -> None:
    """They only set where training began."""
    config(init_lora_weights=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
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
        read_config(tmp_path)


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
    monkeypatch.setattr(peft_rules, "MAX_STEPS", 50)
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


def test_mutated_configurations_never_escape_the_error_tree(tmp_path: Path) -> None:
    """Damaged files either parse or raise an EdgeloraError, nothing else."""
    fields = peft_config(rank=8, alpha=16, targets=["q_proj"], rank_pattern={r".*\.0\.q_proj": 8})
    refusals = 0
    for mutant in mutations(json.dumps(fields).encode(), seed=2, count=500):
        (tmp_path / "adapter_config.json").write_bytes(mutant)
        try:
            selected(read_config(tmp_path), TARGETS)
        except EdgeloraError:
            refusals += 1
    assert 250 < refusals < 500
