"""Several adapters in one sequence, each with its weight and from its own position on: exact, alone and in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelora.backends.base import Applied
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.core.errors import BackendError
from edgelora_converters.oracle.llama import NumpyLlama, Part
from tests.edgelora.backends.llama_cpp.conftest import EXACT, Installed, attached, make_adapters
from tests.edgelora.backends.llama_cpp.test_python_hook import NOISE, PARITY, PROMPTS, oracle
from tests.support.bases import tiny_weights
from tests.support.lora import GQA, delta
from tests.support.steps import Lane, advance, distance, generate

KINDS = {
    "base": (),
    "plain": (Applied(2),),
    "composed": (Applied(0, 0.7), Applied(1, 0.3)),
    "composed too": (Applied(1, 0.25), Applied(3, -1.5), Applied(0, 0.5)),
    "gated": (Applied(0, 1.0, start=3),),
    "gated and composed": (Applied(2, 0.5), Applied(0, 0.75, start=4), Applied(3, 1.0, start=6)),
    "not begun": (Applied(1, 1.0, start=90),),
}


def expected(tokens: Sequence[int], adapters: Sequence[Applied]) -> np.ndarray:
    """The oracle's logits after every token."""
    every = make_adapters()
    parts = [
        Part({target: (pair.a, pair.folded_b()) for target, pair in every[a.slot].pairs.items()}, a.weight, a.start)
        for a in adapters
    ]
    return oracle().logits(tokens, parts)


@pytest.mark.parametrize("adapters", KINDS.values(), ids=KINDS.keys())
def test_prefill_and_decode_equal_the_oracle(backend: LlamaCppBackend, adapters: tuple[Applied, ...]) -> None:
    """Whatever acts: the oracle's logits, in prefill, across a start, and in each decode step."""
    lane = Lane(2, None, list(PROMPTS[0]), adapters)
    generate(backend, [lane], steps=6)
    reference = expected(lane.tokens, adapters)[len(PROMPTS[0]) - 1 : -1]
    assert max(distance(got, want) for got, want in zip(lane.history, reference, strict=True)) < PARITY


def test_they_are_all_different(backend: LlamaCppBackend) -> None:
    """Adapter, weight and start each change the logits: parity with them says something."""
    some = [KINDS[name] for name in ("base", "plain", "composed", "gated")]
    some += [(Applied(0, 0.3), Applied(1, 0.7)), (Applied(0, 1.0, start=2),), (Applied(0),)]
    logits = []
    for adapters in some:
        lane = Lane(0, None, list(PROMPTS[2]), adapters)
        advance(backend, [(lane, lane.chunk(64))])
        backend.clear(0)
        logits.append(lane.logits)
    for n, one in enumerate(logits):
        assert all(distance(one, other) > 0.01 for other in logits[:n])


def test_composition_is_a_merge_of_the_weights(backend: LlamaCppBackend) -> None:
    """Two adapters at 0.7 and 0.3 are the base whose weights are W + 0.7 dW1 + 0.3 dW2."""
    weights = {name: array.astype(np.float64) for name, array in tiny_weights(GQA, seed=7).items()}
    adapters = make_adapters()
    for applied in KINDS["composed"]:
        for target, pair in adapters[applied.slot].pairs.items():
            weights[f"{target.hf_path}.weight"] += applied.weight * delta(pair)
    merged = NumpyLlama(weights, oracle().config, dtype="float64").logits(PROMPTS[2])
    lane = Lane(0, None, list(PROMPTS[2]), KINDS["composed"])
    advance(backend, [(lane, lane.chunk(64))])
    assert lane.logits is not None and distance(lane.logits, merged[-1]) < PARITY


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_a_mixed_batch_equals_each_alone(backend: LlamaCppBackend, chunk: int) -> None:
    """Composed, gated, plain and base sequences side by side give the tokens that each gives alone."""
    kinds = [KINDS[name] for name in ("composed", "base", "gated", "plain", "gated and composed")]
    lanes = [Lane(n, None, list(PROMPTS[n]), adapters) for n, adapters in enumerate(kinds)]
    alone = [Lane(5, None, list(PROMPTS[n]), adapters) for n, adapters in enumerate(kinds)]
    mixed_tokens = generate(backend, lanes, steps=8, chunk=chunk)
    assert mixed_tokens == [generate(backend, [lane], steps=8)[0] for lane in alone]
    for mixed, single in zip(lanes, alone, strict=True):
        assert distance(mixed.history[-1], single.history[-1]) < NOISE


acting = st.lists(
    st.builds(Applied, st.integers(0, 3), st.sampled_from([-0.5, 0.25, 0.7, 1.0, 2.0]), st.integers(0, 9)),
    max_size=3,
    unique_by=lambda a: a.slot,
).map(tuple)


@given(kinds=st.lists(acting, min_size=1, max_size=5), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_grouping_gives_the_oracle_logits(
    backend: LlamaCppBackend, kinds: list[tuple[Applied, ...]], cuts: list[int]
) -> None:
    """However prompts are cut and mixed, and wherever adapters begin: after each prompt the logits are the oracle's."""
    lanes = [Lane(n, None, list(PROMPTS[n]), adapters) for n, adapters in enumerate(kinds)]
    turn = 0
    while live := [lane for lane in lanes if lane.done < len(lane.tokens)]:
        advance(backend, [(lane, lane.chunk(cuts[(turn + n) % len(cuts)])) for n, lane in enumerate(live)])
        turn += len(live)
    for lane in lanes:
        backend.clear(lane.sequence)
        assert lane.logits is not None and distance(lane.logits, expected(lane.tokens, lane.more)[-1]) < PARITY


@pytest.fixture
def own(installed: Installed) -> Iterator[LlamaCppBackend]:
    """llama.cpp's own LoRA."""
    yield from attached(installed, replace(EXACT, method="native"))


def test_llama_cpps_own_lora_composes_too(own: LlamaCppBackend) -> None:
    """It takes a list with weights for a whole step; a start is met by ending the chunk there."""
    adapters = KINDS["gated and composed"]
    lane = Lane(0, None, list(PROMPTS[2]), adapters)
    for size in (4, 2, 3):
        advance(own, [(lane, lane.chunk(size))])
    assert lane.logits is not None and distance(lane.logits, expected(lane.tokens, adapters)[-1]) < PARITY


def test_llama_cpps_own_lora_refuses_what_it_cannot(own: LlamaCppBackend) -> None:
    """A start within a chunk, or two weights in one step, would be computed wrongly: they are errors."""
    inside = Lane(0, None, list(PROMPTS[2]), KINDS["gated"])
    with pytest.raises(BackendError, match="same adapters to a whole step"):
        advance(own, [(inside, inside.chunk(64))])
    own.clear(0)
    lanes = [Lane(n, None, list(PROMPTS[n]), (Applied(0, 0.5 + n / 4),)) for n in range(2)]
    with pytest.raises(BackendError, match="same adapters to a whole step"):
        advance(own, [(lane, lane.chunk(64)) for lane in lanes])


def test_a_slot_twice_is_refused(backend: LlamaCppBackend) -> None:
    """Its weight would be anybody's guess."""
    lane = Lane(0, 0, list(PROMPTS[0]), (Applied(0, 0.5),))
    with pytest.raises(BackendError, match="named twice"):
        advance(backend, [(lane, lane.chunk(64))])
