"""The rope of config.json: both forms of transformers, the divisors, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgelora_converters.base.rope import Rope, read_rope
from edgelora_converters.oracle.llama import llama3_factors
from edgelora_models import builtin
from edgelora_models.errors import BaseError

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_both_forms_are_one() -> None:
    """transformers 4 and 5 write the same scaling under different keys; a file may have both."""
    new = {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}}
    old = {"rope_theta": 500000, "rope_scaling": {**LLAMA3, "type": "llama3"}}
    assert read_rope(new) == read_rope(old) == read_rope({**new, **old})
    shipped = read_rope(json.loads((builtin.base_hf() / "config.json").read_text()))
    assert (shipped.kind, shipped.theta) == ("llama3", 500000.0)


def test_nothing_is_scaled() -> None:
    """Without scaling there is a theta, 10000 where none is given, and there are no factors."""
    for fields in ({}, {"rope_theta": 10000.0}, {"rope_scaling": None}, {"rope_parameters": {"rope_type": "default"}}):
        assert read_rope(fields) == Rope(10000.0, "default", {})
    assert read_rope({"rope_theta": 5e5}).factors(128) is None


def test_llama3_factors_are_the_oracles() -> None:
    """Two ways to compute Llama 3.1's divisors give the same float32 numbers."""
    factors = read_rope({"rope_theta": 5e5, "rope_scaling": LLAMA3}).factors(128)
    other = llama3_factors(theta=5e5, head_dim=128, factor=8.0, low=1.0, high=4.0, original_context=8192)
    assert factors is not None
    np.testing.assert_allclose(factors, np.array(other, np.float32), rtol=2e-7)
    assert (factors[0], factors[-1]) == (1.0, 8.0)


def test_linear_factors() -> None:
    """Linear scaling divides every frequency alike."""
    factors = read_rope({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2}}).factors(8)
    assert factors is not None and factors.tolist() == [2.0] * 4


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 4.0}, LLAMA3])
def test_the_older_keys_mean_the_same(scaling: Any) -> None:
    """What is written for mlx-lm reads back as the rope it was made from."""
    rope = read_rope({"rope_theta": 5e5, "rope_scaling": scaling})
    assert read_rope(rope.legacy()) == rope
    assert rope.legacy().keys() == {"rope_theta", "rope_scaling"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_scaling": {"type": "linear", "rope_type": "llama3"}}, "'linear' and 'llama3'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "no factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": True}}, "factor"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "low_freq_factor"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_scaling": {**LLAMA3, "attention_factor": 0.5}}, "attention_factor"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        ({"rope_parameters": ["llama3"]}, "no object"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta": "10000"}, "rope_theta"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta"),
        ({"rope_theta": 1e4, "rope_scaling": LLAMA3, "rope_parameters": {"rope_theta": 1e4}}, "contradict"),
    ],
)
def test_refusals(fields: dict[str, Any], words: str) -> None:
    """Another scaling, an unknown key, a missing or impossible number and a contradiction are named, with one code."""
    with pytest.raises(BaseError, match=words) as caught:
        read_rope(fields)
    assert caught.value.code == "base_rope"
