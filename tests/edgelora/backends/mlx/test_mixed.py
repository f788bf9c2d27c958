"""Mixed batches: 1 to 16 rows over 1 to 8 adapters of different rank, reach and kind, each as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("mlx")

from edgelora.backends.base import Applied
from edgelora.backends.mlx.backend import MlxBackend
from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.oracle.llama import Part
from tests.edgelora.backends.llama_cpp.conftest import make_adapters
from tests.edgelora.backends.mlx.conftest import EXACT, SEED, opened
from tests.support.lora import GQA, full_adapter, random_adapter
from tests.support.oracles import deltas, distance, tiny_oracle
from tests.support.steps import Lane, advance, generate

pytestmark = pytest.mark.mlx

PARITY = 5e-5
NOISE = 5e-6


def eight() -> tuple[LoraAdapter, ...]:
    """Folders of ranks 1 to 64, the last of each module alone; and files with all that a folder cannot say."""
    return (
        *make_adapters(),
        random_adapter(GQA, seed=5, ranks=(64,), scales=(0.25,)),
        random_adapter(GQA, seed=6, ranks=(1,), scales=(-3.0,)),
        full_adapter(GQA, seed=3),
        full_adapter(GQA, seed=8),
    )


@pytest.fixture(scope="module", params=[0, 1 << 28], ids=["runs", "stacks"])
def backend(
    request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlxBackend]:
    """Adapter N of `eight` in slot N; once with each way to apply several."""
    folder = tmp_path_factory.mktemp("eight")
    with opened(tiny, options=replace(EXACT, stack_bytes=request.param)) as backend:
        for slot, adapter in enumerate(eight()):
            writer = mapped_writer if adapter.row_scales else mlx_writer
            writer.write(adapter, GQA, folder / f"{slot}", provenance={})
            backend.attach(slot, backend.load(folder / f"{slot}"))
        yield backend


@pytest.mark.parametrize(("rows", "adapters"), [(1, 1), (2, 2), (3, 1), (5, 3), (8, 8), (16, 1), (16, 5), (16, 8)])
def test_a_mixed_batch_equals_each_alone(backend: MlxBackend, rows: int, adapters: int) -> None:
    """A token of each sequence in every step, after prompts of different lengths: tokens and logits of each alone."""
    prompts = [[(7 * n + k * k) % 256 for k in range(3 + n % 5)] for n in range(rows)]
    lanes = [Lane(n, n % adapters, list(prompt)) for n, prompt in enumerate(prompts)]
    alone = [Lane(15, lane.slot, list(lane.tokens)) for lane in lanes]
    mixed = generate(backend, lanes, steps=4, chunk=4)
    assert mixed == [generate(backend, [lane], steps=4)[0] for lane in alone]
    assert all(distance(a.history[-1], b.history[-1]) < NOISE for a, b in zip(lanes, alone, strict=True))


uses = st.lists(
    st.builds(Applied, st.integers(0, 7), st.sampled_from([-0.5, 0.25, 1.0, 2.0]), st.integers(0, 9)),
    max_size=3,
    unique_by=lambda a: a.slot,
).map(tuple)


@given(
    kinds=st.lists(uses, min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_grouping_gives_the_oracle_logits(
    backend: MlxBackend, kinds: list[tuple[Applied, ...]], cuts: list[int], seed: int
) -> None:
    """However prompts are cut and mixed and wherever adapters begin: after each prompt the logits are the oracle's."""
    rng = np.random.default_rng(seed)
    lanes = [Lane(n, None, rng.integers(0, 256, rng.integers(1, 12)).tolist(), more) for n, more in enumerate(kinds)]
    turn = 0
    while live := [lane for lane in lanes if lane.done < len(lane.tokens)]:
        advance(backend, [(lane, lane.chunk(cuts[(turn + n) % len(cuts)])) for n, lane in enumerate(live)])
        turn += len(live)
    oracle, every = tiny_oracle(GQA, seed=SEED), eight()
    for lane in lanes:
        backend.clear(lane.sequence)
        parts = [Part(deltas(every[a.slot]), a.weight, a.start) for a in lane.more]
        assert lane.logits is not None and distance(lane.logits, oracle.logits(lane.tokens, parts)[-1]) < PARITY


@pytest.mark.parametrize("slot", range(8))
def test_prefill_and_decode_equal_the_oracle(backend: MlxBackend, slot: int) -> None:
    """Every adapter gives the oracle's logits, far from the base's, in prefill and in each decode step."""
    lane = Lane(2, slot, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    generate(backend, [lane], steps=4)
    oracle = tiny_oracle(GQA, seed=SEED)
    wanted = oracle.logits(lane.tokens, deltas(eight()[slot]))[8:-1]
    assert max(distance(got, want) for got, want in zip(lane.history, wanted, strict=True)) < PARITY
    assert distance(oracle.logits(lane.tokens)[-2], wanted[-1]) > 0.01
