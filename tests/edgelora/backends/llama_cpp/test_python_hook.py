"""LoRA by evaluation callback: exact for every adapter, in every batch, at every chunk boundary."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.backends.llama_cpp.python_hook import PythonHookMethod
from edgelora.core.errors import BackendError
from edgelora_converters.oracle.llama import LlamaConfig, NumpyLlama
from tests.edgelora.backends.llama_cpp.conftest import Installed, attached, make_adapters
from tests.support.bases import NORM_EPSILON, ROPE_THETA, rope_factors, tiny_weights
from tests.support.lora import GQA
from tests.support.steps import Lane, advance, distance, generate, once
from tests.support.uses import applied

PARITY = 5e-5
NOISE = 5e-6
"""Float32 rounding alone, where the same products are summed in another order."""
PROMPTS = ([5, 9, 200, 31, 7], [65, 66, 67], [1, 2, 3, 4, 5, 6, 7, 8, 9], [250, 249, 248, 100], [42, 43])


@cache
def oracle() -> NumpyLlama:
    factors = tuple(float(factor) for factor in rope_factors(GQA.head_dim))
    config = LlamaConfig(GQA, norm_epsilon=NORM_EPSILON, rope_theta=ROPE_THETA, rope_factors=factors)
    return NumpyLlama(tiny_weights(GQA, seed=7), config, dtype="float64")


def expected(tokens: list[int], slot: int | None) -> np.ndarray:
    """The oracle's logits after every token."""
    if slot is None:
        return oracle().logits(tokens)
    pairs = make_adapters()[slot].pairs
    return oracle().logits(tokens, {target: (pair.a, pair.folded_b()) for target, pair in pairs.items()})


@pytest.mark.parametrize("slot", [None, 0, 1, 2, 3])
def test_prefill_and_decode_equal_the_oracle(backend: LlamaCppBackend, slot: int | None) -> None:
    """Every rank, scale and choice of modules gives the oracle's logits, in prefill and in each decode step."""
    lane = Lane(2, slot, list(PROMPTS[2]))
    generate(backend, [lane], steps=6)
    reference = expected(lane.tokens, slot)[len(PROMPTS[2]) - 1 : -1]
    assert len(lane.history) == len(reference) == 6
    assert max(distance(got, want) for got, want in zip(lane.history, reference, strict=True)) < PARITY


@pytest.mark.parametrize("slot", [0, 1, 2, 3])
def test_an_adapter_changes_the_logits(backend: LlamaCppBackend, slot: int) -> None:
    """Each of the adapters under test is far from the base: parity with it says something."""
    assert distance(once(backend, PROMPTS[0], slot), once(backend, PROMPTS[0], None)) > 0.02


@pytest.mark.parametrize("chunk", [1, 2, 3, 64])
def test_a_mixed_batch_equals_each_alone(backend: LlamaCppBackend, chunk: int) -> None:
    """Four sequences on four adapters and one on none, side by side, give the tokens that each gives alone."""
    slots = (3, None, 1, 0, 2)  # not sorted: the backend's own order must not show
    lanes = [Lane(n, slot, list(PROMPTS[n])) for n, slot in enumerate(slots)]
    alone = [Lane(5, slot, list(PROMPTS[n])) for n, slot in enumerate(slots)]
    mixed_tokens = generate(backend, lanes, steps=8, chunk=chunk)
    assert mixed_tokens == [generate(backend, [lane], steps=8)[0] for lane in alone]
    for mixed, single in zip(lanes, alone, strict=True):
        assert distance(mixed.history[-1], single.history[-1]) < NOISE


def test_two_sequences_share_an_adapter(backend: LlamaCppBackend) -> None:
    """Sequences of one adapter, apart in the batch, are both served by it."""
    lanes = [Lane(n, slot, list(PROMPTS[n])) for n, slot in enumerate((1, 0, 1, None, 0))]
    advance(backend, [(lane, lane.chunk(64)) for lane in lanes])
    for lane in lanes:
        assert lane.logits is not None
        assert distance(lane.logits, expected(lane.tokens, lane.slot)[-1]) < PARITY


def test_a_base_chunk_in_a_mixed_batch_is_the_base(backend: LlamaCppBackend) -> None:
    """Rows of no adapter are bit for bit what they are in the same batch without any adapter."""
    logits: list[list[Any]] = []
    for slots in ((0, None, 1), (None, None, None)):
        lanes = [Lane(n, slot, list(PROMPTS[n])) for n, slot in enumerate(slots)]
        advance(backend, [(lane, lane.chunk(64)) for lane in (lanes[1], lanes[0], lanes[2])])
        logits.append([lane.logits for lane in lanes])
        for lane in lanes:
            backend.clear(lane.sequence)
    mixed, plain = logits
    assert np.array_equal(mixed[1], plain[1])
    assert distance(mixed[0], plain[0]) > 0.02 and distance(mixed[2], plain[2]) > 0.02


@pytest.mark.parametrize("counts", [(3, 0, 1, 0), (1, 3, 0, 2), (5, 3, 9, 4), (0, 0, 5, 0)])
def test_logits_after_several_tokens_of_a_chunk(
    installed: Installed, options: BackendOptions, counts: tuple[int, ...]
) -> None:
    """Beside chunks that want fewer, or none: every wanted row is the oracle's, with its own sequence's adapter."""
    for backend in attached(installed, replace(options, max_outputs=24)):
        lanes = [Lane(n, n, list(PROMPTS[n])) for n in range(4)]
        advance(backend, [(lane, lane.chunk(64, logits=count)) for lane, count in zip(lanes, counts, strict=True)])
        for lane, count in zip(lanes, counts, strict=True):
            assert len(lane.history) == count
            reference = expected(lane.tokens, lane.slot)[len(lane.tokens) - count :]
            assert all(distance(*pair) < PARITY for pair in zip(lane.history, reference, strict=True))


@pytest.mark.parametrize("wanted", [(), (1,), (0, 2), (3,), (0, 1, 2, 3)])
def test_logits_for_only_some_chunks(backend: LlamaCppBackend, wanted: tuple[int, ...]) -> None:
    """The last layer computes output rows alone: whichever chunks want logits, each output meets its own adapter."""
    lanes = [Lane(n, n, list(PROMPTS[n])) for n in range(4)]
    advance(backend, [(lane, lane.chunk(64, logits=lane.sequence in wanted)) for lane in lanes])
    assert [lane.logits is not None for lane in lanes] == [n in wanted for n in range(4)]
    for lane in lanes:
        lane.tokens.append(11)
    first = [lane.logits for lane in lanes]
    advance(backend, [(lane, lane.chunk(64)) for lane in lanes])
    for lane, earlier in zip(lanes, first, strict=True):
        reference = expected(lane.tokens, lane.slot)
        assert lane.logits is not None and distance(lane.logits, reference[-1]) < PARITY
        assert earlier is None or distance(earlier, reference[-2]) < PARITY


@given(
    slots=st.lists(st.sampled_from([None, 0, 1, 2, 3]), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=6),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_schedule_gives_the_oracle_logits(
    backend: LlamaCppBackend, slots: list[int | None], cuts: list[int]
) -> None:
    """However prompts are cut and mixed, the logits after each prompt are the oracle's."""
    lanes = [Lane(n, slot, list(PROMPTS[n])) for n, slot in enumerate(slots)]
    turn = 0
    while live := [lane for lane in lanes if lane.done < len(lane.tokens)]:
        chunks = []
        for lane in live:
            chunk = lane.chunk(cuts[turn % len(cuts)])
            turn += 1
            chunks.append((lane, chunk))
        advance(backend, chunks)
    for lane in lanes:
        backend.clear(lane.sequence)
        assert lane.logits is not None and distance(lane.logits, expected(lane.tokens, lane.slot)[-1]) < PARITY


def test_detach_and_attach(backend: LlamaCppBackend, installed: Installed) -> None:
    """A slot serves what was attached last, and nothing once detached."""
    backend.detach(0)
    with pytest.raises(BackendError, match="Slot 0 holds no adapter"):
        once(backend, PROMPTS[0], 0)
    backend.attach(0, backend.load(installed.mapped[1]))
    assert np.array_equal(once(backend, PROMPTS[0], 0), once(backend, PROMPTS[0], 1))


def test_an_error_in_the_kernel_ends_the_step_alone(
    numpy_backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel raises comes out of step() as a BackendError; after a clear all goes on as before."""
    before = once(numpy_backend, PROMPTS[0], 0)

    def broken(*_: object) -> None:
        raise FloatingPointError("no such number")

    with monkeypatch.context() as patch:
        patch.setattr(_method(numpy_backend), "_kernel", broken)
        with pytest.raises(BackendError, match="no such number") as caught:
            once(numpy_backend, PROMPTS[0], 0)
    assert isinstance(caught.value.__cause__, FloatingPointError)
    with pytest.raises(BackendError, match="undefined"):
        numpy_backend.step([Chunk(sequence=0, position=0, tokens=(1,), adapters=applied(0), logits=True)])
    numpy_backend.clear(0)
    assert np.array_equal(once(numpy_backend, PROMPTS[0], 0), before)


def test_an_interrupt_in_the_kernel_passes_through(
    numpy_backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a delta is added is a KeyboardInterrupt outside, not an ignored exception in native code."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_method(numpy_backend), "_kernel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        once(numpy_backend, PROMPTS[0], 0)


def test_a_module_the_graph_skips_is_an_error(numpy_backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that did not pass every targeted module is refused: an adapter is never applied in part."""
    slots = _method(numpy_backend)._slots
    monkeypatch.setitem(slots, 0, {**slots[0], 1: next(iter(slots[0].values()))})
    with pytest.raises(BackendError, match="passed by 1 of the 15 modules"):
        once(numpy_backend, PROMPTS[0], 0)


def test_base_steps_stop_nowhere(numpy_backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step without adapters never enters the hook."""

    def entered(node: int) -> bool:
        raise AssertionError(node)

    monkeypatch.setattr(PythonHookMethod, "wants", lambda _self, node: entered(node))
    once(numpy_backend, PROMPTS[0], None)


def _method(backend: LlamaCppBackend) -> PythonHookMethod:
    assert isinstance(backend._method, PythonHookMethod)
    return backend._method
