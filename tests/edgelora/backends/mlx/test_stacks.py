"""Stacked factors: the deltas of separate ones, made for adapters that keep meeting, and gone with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx")

from edgelora.backends.base import Applied
from edgelora.backends.mlx.backend import MlxBackend
from edgelora_converters.mlx import writer as mlx_writer
from tests.edgelora.backends.mlx.conftest import EXACT, opened
from tests.support.lora import GQA, every_target, random_adapter
from tests.support.steps import Lane, advance, distance

pytestmark = pytest.mark.mlx


@pytest.fixture
def backends(tiny: Path, tmp_path: Path) -> Iterator[Sequence[MlxBackend]]:
    """Without and with stacks: two adapters of one rank, one of another, one of the first layer alone."""
    adapters = [
        random_adapter(GQA, seed=1, ranks=(4,)),
        random_adapter(GQA, seed=2, ranks=(4,)),
        random_adapter(GQA, seed=3, ranks=(7,)),
        random_adapter(GQA, seed=4, ranks=(4,), targets=[t for t in every_target(GQA) if t.layer == 0]),
    ]
    with (
        opened(tiny, options=replace(EXACT, stack_bytes=0)) as separate,
        opened(tiny, options=replace(EXACT, stack_bytes=1 << 24)) as stacked,
    ):
        for slot, adapter in enumerate(adapters):
            mlx_writer.write(adapter, GQA, tmp_path / f"{slot}", provenance={})
            for backend in (separate, stacked):
                backend.attach(slot, backend.load(tmp_path / f"{slot}"))
        yield separate, stacked


def stacks_of(backend: MlxBackend) -> dict[Any, Any]:
    return backend._opened().slots._stacks._stacks


def run(backend: MlxBackend, lanes: Sequence[Lane], *, steps: int) -> list[np.ndarray]:
    """Tokens one by one, the same for every backend."""
    for _ in range(steps):
        advance(backend, [(lane, lane.chunk(1)) for lane in lanes])
    return [lane.logits for lane in lanes if lane.logits is not None]


def lanes_of(*uses: tuple[Applied, ...]) -> list[Lane]:
    return [Lane(n, None, [(7 * n + k) % 250 for k in range(20)], more) for n, more in enumerate(uses)]


MIXES = {
    "one rank": ((Applied(0),), (Applied(1),), (Applied(0),)),
    "two ranks and the base": ((Applied(0),), (), (Applied(2),), (Applied(1),)),
    "one that changes few modules": ((Applied(3),), (Applied(0),)),
    "composed": ((Applied(0, 0.5), Applied(1, -0.25)), (Applied(1),), (Applied(2, 2.0), Applied(0))),
}


@pytest.mark.parametrize("uses", MIXES.values(), ids=MIXES.keys())
def test_they_give_what_separate_factors_give(
    backends: Sequence[MlxBackend], uses: tuple[tuple[Applied, ...], ...]
) -> None:
    """Whatever meets: but for rounding the same logits, and there was something stacked."""
    separate, stacked = (run(backend, lanes_of(*uses), steps=4) for backend in backends)
    assert stacks_of(backends[1]) and not stacks_of(backends[0])
    assert all(distance(one, two) < 5e-6 for one, two in zip(stacked, separate, strict=True))


def test_made_from_the_second_step_on_and_kept_while_it_serves(backends: Sequence[MlxBackend]) -> None:
    """Not for one step; not again where one leaves; gone when there is one adapter only."""
    backend = backends[1]
    lanes = lanes_of((Applied(0),), (Applied(1),), (Applied(2),))
    run(backend, lanes, steps=1)
    assert not stacks_of(backend)
    run(backend, lanes, steps=1)
    made = {key: id(stack) for key, stack in stacks_of(backend).items()}
    assert made
    run(backend, lanes[:2], steps=2)
    assert {key: id(stack) for key, stack in stacks_of(backend).items()} == made
    run(backend, lanes[:1], steps=1)
    assert not stacks_of(backend)


def test_a_slot_with_another_adapter_is_another(backends: Sequence[MlxBackend], tmp_path: Path) -> None:
    """Detached and filled again between two steps of the same slots: nothing of the old one is left."""
    mlx_writer.write(random_adapter(GQA, seed=9, ranks=(4,)), GQA, tmp_path / "other", provenance={})
    results = []
    for backend in backends:
        run(backend, lanes_of((Applied(0),), (Applied(1),)), steps=3)
        for sequence in (0, 1):
            backend.clear(sequence)
        backend.detach(1)
        backend.attach(1, backend.load(tmp_path / "other"))
        results.append(run(backend, lanes_of((Applied(0),), (Applied(1),)), steps=3))
    assert all(distance(one, two) < 5e-6 for one, two in zip(*results, strict=True))


def test_never_larger_than_allowed(tiny: Path, tmp_path: Path) -> None:
    """Where the copies would take more, the adapters' own arrays serve."""
    with opened(tiny, options=replace(EXACT, stack_bytes=1000)) as backend:
        for slot in range(2):
            mlx_writer.write(random_adapter(GQA, seed=slot), GQA, tmp_path / f"{slot}", provenance={})
            backend.attach(slot, backend.load(tmp_path / f"{slot}"))
        run(backend, lanes_of((Applied(0),), (Applied(1),)), steps=4)
        assert not stacks_of(backend)
