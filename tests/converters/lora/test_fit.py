"""fit: what every writer asks before it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.lora.fit import Part, check_fits, check_parts
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_models.errors import AdapterIncompatible, AdapterUnsupported
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD, LinearModule
from tests.support.lora import GQA, random_adapter

Q = Target(0, BY_HF["self_attn.q_proj"])
ONES = np.ones(GQA.q_width, np.float32)


def with_part(part: Part) -> LoraAdapter:
    """An adapter on one module that has this part and no other."""
    outer = {"embedding_lora": EMBEDDING, "dora_embedding": EMBEDDING, "head_lora": HEAD}
    target = Target(None, outer[part]) if part in outer else Q
    plain = random_adapter(GQA, targets=[target])
    pair = plain.pairs[target]
    pair = replace(pair, magnitude=ONES) if part.startswith("dora") else pair
    pair = replace(pair, bias=ONES) if part == "lora_bias" else pair
    return replace(plain, pairs={target: pair})


@pytest.mark.parametrize("part", ["dora", "dora_embedding", "lora_bias", "embedding_lora", "head_lora"])
def test_a_part_that_a_format_does_not_carry_is_refused_by_its_own_code(part: Part) -> None:
    """And is no trouble for a format that does."""
    check_parts(with_part(part), to="a test", carried=get_args(Part))
    with pytest.raises(AdapterUnsupported) as caught:
        check_parts(with_part(part), to="a test", carried=set())
    assert caught.value.code == part


@pytest.mark.parametrize("module", [EMBEDDING, HEAD])
def test_the_embedding_and_the_head_fit_with_the_vocabulary_for_a_width(module: LinearModule) -> None:
    """The embedding maps vocab to hidden, the head hidden to vocab."""
    adapter = random_adapter(GQA, targets=[Target(None, module)])
    check_fits(adapter, GQA)
    with pytest.raises(AdapterIncompatible):
        check_fits(adapter, replace(GQA, vocab=GQA.vocab + 1))


@pytest.mark.parametrize("target", [Target(0, EMBEDDING), Target(0, HEAD), Target(None, Q.module), Target(2, Q.module)])
def test_a_module_has_a_layer_or_none_as_its_kind_demands(target: Target) -> None:
    """A layer's module outside the layers, and the other way round, have no place in any base."""
    pair = LoraPair(
        np.zeros((1, target.module.in_features(GQA)), np.float32),
        np.zeros((target.module.out_features(GQA), 1), np.float32),
        1.0,
    )
    with pytest.raises(AdapterIncompatible):
        check_fits(LoraAdapter({target: pair}, "0" * 64, None), GQA)


@pytest.mark.parametrize(
    ("write", "part", "code"),
    [
        (gguf_writer.write, "dora", "dora"),
        (gguf_writer.write, "lora_bias", "lora_bias"),
        (mlx_writer.write, "lora_bias", "lora_bias"),
        (mapped_writer.write, "dora", "base_needed"),
        (mapped_writer.write, "dora_embedding", "dora_embedding"),
        (mlx_writer.write, "dora_embedding", "dora_embedding"),
    ],
)
def test_writers_refuse_what_they_do_not_carry(
    write: Callable[..., None], part: Part, code: str, tmp_path: Path
) -> None:
    """And leave nothing behind. edgelora's own layout carries DoRA once the row scales are known."""
    with pytest.raises(AdapterUnsupported) as caught:
        write(with_part(part), GQA, tmp_path / "out", provenance={})
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [gguf_writer.write, mlx_writer.write])
@pytest.mark.parametrize("part", ["embedding_lora", "head_lora"])
def test_one_end_of_a_tied_base_is_refused(write: Callable[..., None], part: Part, tmp_path: Path) -> None:
    """llama.cpp would abort on it, and mlx-lm change both ends."""
    with pytest.raises(AdapterUnsupported) as caught:
        write(with_part(part), replace(GQA, tied=True), tmp_path / "out", provenance={})
    assert caught.value.code == "tied_base"


def test_targets_are_ordered_as_a_forward_pass_meets_them() -> None:
    """The embedding first, the layers by number, the head last."""
    targets = [Target(None, HEAD), Target(1, Q.module), Target(0, Q.module), Target(None, EMBEDDING)]
    assert sorted(targets, key=lambda target: target.depth) == targets[::-1]
