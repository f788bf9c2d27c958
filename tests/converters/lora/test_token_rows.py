"""tokens: rows that trainable tokens replace, as factors beside the base's own rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora_converters.lora.adapter import LoraAdapter, Target, TokenRows
from edgelora_converters.lora.token_rows import MAX_TOKENS, with_token_pairs
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.errors import AdapterUnsupported
from edgelora_models.modules import EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape
from tests.support.bases import tiny_weights, write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS, delta, random_adapter

E, H = Target(None, EMBEDDING), Target(None, HEAD)
TOKENS = (250, 3, 77)


def token_adapter(shape: LlamaShape, target: Target = E, tokens: tuple[int, ...] = TOKENS) -> LoraAdapter:
    rows = np.random.default_rng(0).standard_normal((len(tokens), shape.hidden)).astype(np.float32)
    return replace(random_adapter(shape), token_rows={target: TokenRows(tokens, rows)})


@pytest.mark.parametrize("quantization", ["F32", "Q8_0"])
@pytest.mark.parametrize(("shape", "target"), [(GQA, E), (GQA, H), (WIDE_HEADS, E)], ids=["embedding", "head", "tied"])
def test_the_rows_are_the_new_ones(tmp_path: Path, shape: LlamaShape, target: Target, quantization: str) -> None:
    """Beside whatever the base has there, quantized or not, and every other row stays; a tied head follows."""
    adapter = token_adapter(shape, target)
    rows = adapter.token_rows[target].rows
    path = write_tiny_gguf(tmp_path / "base.gguf", shape, seed=7, quantization=quantization)
    with open_base_weights(path) as weights:
        found = with_token_pairs(adapter, weights)
        base = weights.read(f"{target.hf_path}.weight")
    wanted = base.astype(np.float64)
    wanted[list(TOKENS)] = rows
    assert not found.token_rows
    assert found.pairs.keys() - adapter.pairs.keys() == ({E, H} if shape.tied else {target})
    for outer in found.pairs.keys() - adapter.pairs.keys():
        change = delta(found.pairs[outer])
        changed = base + (change.T if outer == E else change)
        np.testing.assert_allclose(changed, wanted, atol=1e-6)
    assert quantization != "F32" or np.array_equal(base, tiny_weights(shape, seed=7)[f"{target.hf_path}.weight"])


def test_without_tokens_nothing_is_read(tmp_path: Path) -> None:
    """The adapter comes back as it is."""
    plain = random_adapter(GQA)
    with open_base_weights(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=7)) as weights:
        assert with_token_pairs(plain, weights) is plain


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    """Factors and replaced rows of one module, and more tokens than can be carried."""
    both = token_adapter(GQA)
    both = replace(both, pairs=dict(both.pairs) | random_adapter(GQA, targets=[E]).pairs)
    many = token_adapter(GQA, tokens=tuple(range(MAX_TOKENS + 1)))
    with open_base_weights(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=7)) as weights:
        for adapter, code in ((both, "token_rows"), (many, "token_rows_many")):
            with pytest.raises(AdapterUnsupported) as caught:
                with_token_pairs(adapter, weights)
            assert caught.value.code == code
