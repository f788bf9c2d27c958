"""DoRA, lora_bias, the embedding and the head on real llama.cpp: the oracle's logits, alone, mixed and composed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edgelora.backends.base import Applied, Chunk
from edgelora.backends.kernels import native
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora_converters.lora.adapter import LoraAdapter, Target
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.oracle.llama import NumpyLlama, Part
from edgelora_models.modules import EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape
from tests.edgelora.backends.llama_cpp.conftest import EXACT, KERNELS
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS, full_adapter, random_adapter
from tests.support.oracles import deltas, distance, tiny_oracle
from tests.support.steps import Lane, advance, generate

PARITY = 5e-5
NOISE = 5e-6
PROMPTS = ([5, 9, 200, 31, 7], [65, 66, 67], [1, 2, 3, 4, 5, 6, 7, 8, 9], [250, 249, 248, 100], [42, 43])
SHAPES = {"untied": GQA, "tied": WIDE_HEADS}


def adapters_of(shape: LlamaShape) -> tuple[LoraAdapter, ...]:
    """DoRA, biases, the embedding and the head each alone, all of it together, and plain LoRA."""
    whole = full_adapter(shape, seed=3)
    scaled = {t: p for t, p in whole.pairs.items() if p.magnitude is not None}
    biased = {t: p for t, p in whole.pairs.items() if p.bias is not None and t.layer is not None}
    outer = random_adapter(
        shape, seed=4, ranks=(3, 6), scales=(2.0,), targets=[Target(None, m) for m in (EMBEDDING, HEAD)]
    )
    return (
        replace(whole, pairs=scaled),
        replace(whole, pairs=biased, row_scales={}),
        outer,
        whole,
        random_adapter(shape, seed=5),
        full_adapter(shape, seed=6),
    )


@cache
def oracle(shape: LlamaShape) -> NumpyLlama:
    return tiny_oracle(shape, seed=7)


@pytest.fixture(scope="module", params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> LlamaShape:
    return SHAPES[request.param]


@pytest.fixture(scope="module", params=KERNELS)
def backend(
    request: pytest.FixtureRequest, shape: LlamaShape, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaCppBackend]:
    """Adapter N of `adapters_of` in slot N."""
    folder = tmp_path_factory.mktemp("parts")
    base = write_tiny_gguf(folder / "base.gguf", shape, seed=7)
    settings = replace(EXACT, kernel=request.param, max_slots=6)
    backend = LlamaCppBackend.open(base, shape=shape, settings=settings)
    for slot, adapter in enumerate(adapters_of(shape)):
        mapped_writer.write(adapter, shape, folder / f"{slot}.lora", provenance={})
        backend.attach(slot, backend.load(folder / f"{slot}.lora"))
    yield backend
    backend.close()


@pytest.mark.parametrize("slot", range(6))
def test_prefill_and_decode_equal_the_oracle(backend: LlamaCppBackend, shape: LlamaShape, slot: int) -> None:
    """Every part gives the oracle's logits, far from the base's, in prefill and in each decode step."""
    lane = Lane(2, slot, list(PROMPTS[2]))
    generate(backend, [lane], steps=4)
    adapter = adapters_of(shape)[slot]
    wanted = oracle(shape).logits(lane.tokens, deltas(adapter))[len(PROMPTS[2]) - 1 : -1]
    assert max(distance(got, want) for got, want in zip(lane.history, wanted, strict=True)) < PARITY
    assert distance(oracle(shape).logits(lane.tokens)[-2], wanted[-1]) > 0.02


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_a_mixed_batch_equals_each_alone(backend: LlamaCppBackend, chunk: int) -> None:
    """A DoRA, a biased, an embedding adapter and plain ones side by side give the tokens that each gives alone."""
    slots = (3, 0, 2, 1, 4)
    lanes = [Lane(n, slot, list(PROMPTS[n])) for n, slot in enumerate(slots)]
    mixed_tokens = generate(backend, lanes, steps=6, chunk=chunk)
    alone = [Lane(5, slot, list(PROMPTS[n])) for n, slot in enumerate(slots)]
    assert mixed_tokens == [generate(backend, [lane], steps=6)[0] for lane in alone]
    for mixed, single in zip(lanes, alone, strict=True):
        assert distance(mixed.history[-1], single.history[-1]) < NOISE


def test_without_logits_the_head_is_not_computed(backend: LlamaCppBackend, shape: LlamaShape) -> None:
    """A piece of a prompt whose logits nobody wants beside one whose are: each output meets its own adapter."""
    lanes = [Lane(n, slot, list(PROMPTS[n])) for n, slot in enumerate((2, 3, 2))]
    advance(backend, [(lane, lane.chunk(64, logits=0)) for lane in lanes])
    for lane in lanes:
        lane.tokens.append(11)
    advance(backend, [(lane, lane.chunk(64, logits=lane.sequence != 1)) for lane in lanes])
    for lane in lanes:
        backend.clear(lane.sequence)
        if lane.sequence != 1:
            wanted = oracle(shape).logits(lane.tokens, deltas(adapters_of(shape)[lane.slot or 0]))[-1]
            assert lane.logits is not None and distance(lane.logits, wanted) < PARITY


@pytest.mark.parametrize(
    "uses",
    [
        (Applied(0, 0.6), Applied(5, 0.5)),
        (Applied(3, 0.5), Applied(4, 0.7), Applied(0, 0.25)),
        (Applied(3, 0.5, start=2), Applied(5, 1.0, start=4), Applied(2, -0.5)),
    ],
    ids=["two DoRA", "DoRA and plain", "gated"],
)
def test_several_adapters_add_up_their_changes_of_the_base(
    backend: LlamaCppBackend, shape: LlamaShape, uses: tuple[Applied, ...]
) -> None:
    """W x + the weighted sum of what each makes of W x, in whatever order they are named and attached."""
    prompt = list(PROMPTS[2])
    every = adapters_of(shape)
    parts = [Part(deltas(every[use.slot]), use.weight, use.start) for use in uses]
    wanted = oracle(shape).logits(prompt, parts)[-1]
    for order in (uses, uses[::-1]):
        chunk = Chunk(sequence=1, position=0, tokens=tuple(prompt), adapters=order, logits=1)
        (found,) = backend.step([chunk])
        backend.clear(1)
        assert found is not None and distance(found[0], wanted) < PARITY


@pytest.mark.skipif(native.library() is None, reason="the native kernel was not built")
def test_a_token_of_no_row_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    """The native callback looks up no row that the adapter's embedding has not."""
    from edgelora.backends.kernels import reference

    a, b = np.ones((4, 2), np.float32), np.ones((2, 3), np.float32)
    factors = reference.Factors(a, b, lookup=True)
    y = np.zeros((1, 3), np.float32)
    for token in (-1, 4):
        with pytest.raises(ValueError):
            native.add_delta(y, np.array([token], np.int32), [reference.Group(0, 1, factors)])
