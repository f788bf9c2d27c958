"""The streamed oracle is the oracle: the same logits, with a layer at a time in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgelora_converters.oracle.llama import Case, Part
from edgelora_converters.oracle.open import hf_config, load_gguf, open_streamed
from edgelora_converters.oracle.stream import StreamedLlama
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.shape import LlamaShape
from tests.support.bases import tiny_config, write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS, random_adapter
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle, write_tiny_hf

SHAPES = pytest.mark.parametrize("shape", [GQA, WIDE_HEADS], ids=["gqa", "wide-heads-tied"])


@SHAPES
@pytest.mark.parametrize("source", ["gguf", "hf"])
def test_it_is_the_oracle(tmp_path: Path, shape: LlamaShape, source: str) -> None:
    """Sequences of several lengths, with and without adapters, side by side: each as the whole oracle has it alone."""
    write = write_tiny_gguf if source == "gguf" else write_tiny_hf
    path = write(tmp_path / "base", shape, seed=1)
    parts = [Part(deltas(random_adapter(shape)), weight=0.5, start=3)]
    cases = [Case(TOKENS), Case(TOKENS[:7], parts), Case(TOKENS[:1])]
    done: list[int] = []
    with open_streamed(path) as llama:
        found = llama.logits_of(cases, progress=done.append)
    whole = tiny_oracle(shape, seed=1, dtype="float32")
    for logits, case in zip(found, cases, strict=True):
        assert distance(logits, whole.logits(case.tokens, case.parts)) < 1e-5
    assert done == list(range(1, shape.layers + 1))


def test_quantized_weights(tmp_path: Path) -> None:
    """Of a quantized base it computes with the dequantized weights."""
    path = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=2, quantization="Q8_0")
    with open_streamed(path) as llama:
        assert distance(llama.logits(TOKENS), load_gguf(path).logits(TOKENS)) < 1e-5


def test_each_weight_is_read_once(tmp_path: Path) -> None:
    """Whatever the number of sequences; and of the embedding only the rows of their tokens."""
    path = write_tiny_hf(tmp_path / "base", GQA, seed=1)
    with open_base_weights(path) as weights:
        read: list[str] = []
        real = weights.read

        def counted(name: str) -> object:
            read.append(name)
            return real(name)

        weights.read = counted  # type: ignore[method-assign, assignment]
        StreamedLlama(weights, hf_config(tiny_config(GQA))).logits_of([Case([1, 2]), Case([3])])
        assert len(read) == len(set(read)) == len(weights.names) - 2
        assert np.isfinite(weights.rows("lm_head.weight", 0, 2)).all()
