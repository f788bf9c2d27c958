"""What a step's chunks mean for its rows: which adapter adds to which of them, and how much."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.backends.base import Applied, Chunk
from edgelora.backends.llama_cpp.lora_method import Share, StepShares, shares_of


def chunk(size: int, *adapters: Applied, position: int = 0, logits: int = 1) -> Chunk:
    return Chunk(0, position, tuple(range(size)), adapters, logits)


def test_neighbours_are_one_share() -> None:
    """Rows of one adapter that stand together are added in one go, whatever else acts on them."""
    step = shares_of([chunk(3), chunk(2, Applied(0)), chunk(1, Applied(0), Applied(1)), chunk(4, Applied(1))])
    assert step == StepShares((Share(0, (3, 6), (1, 3)), Share(1, (5, 10), (2, 4))), 10, 4)


def test_different_weights_are_a_gate() -> None:
    """An adapter's factors are read once for sequences that weigh it differently."""
    step = shares_of([chunk(2, Applied(0, 0.5)), chunk(1, Applied(0, 0.25), logits=0), chunk(1, Applied(0, 0.5))])
    assert step.shares == (Share(0, (0, 4), (0, 2), 1.0, (0.5, 0.5, 0.25, 0.5), (0.5, 0.5)),)


def test_rows_before_the_start_are_left_alone() -> None:
    """A chunk that an adapter begins in is cut there; one that ends before it is not touched, nor is weight 0."""
    begun = [chunk(4, Applied(0, start=12), position=10), chunk(4, Applied(0, start=14), position=10)]
    assert shares_of(begun) == StepShares((Share(0, (2, 4), (0, 1)),), 8, 2)
    assert shares_of([chunk(2, Applied(0, 0.0))]) == StepShares((), 2, 1)


applied = st.lists(
    st.builds(Applied, st.integers(0, 2), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 12)),
    max_size=3,
    unique_by=lambda a: a.slot,
)
chunks = st.builds(
    lambda size, position, adapters, logits: chunk(size, *adapters, position=position, logits=min(size, logits)),
    *(st.integers(1, 6), st.integers(0, 8), applied, st.integers(0, 6)),
)


def matrix(step: StepShares, *, outputs: bool) -> np.ndarray:
    """[rows, slots]: the weight of each slot in each row, as the shares say."""
    found = np.zeros((step.outputs if outputs else step.rows, 3))
    for share in step.shares:
        (start, stop), gate = (share.outputs, share.output_gate) if outputs else (share.rows, share.gate)
        assert 0 <= start <= stop <= len(found) and len(gate) in (0, stop - start)
        found[start:stop, share.slot] += share.weight * np.array(gate or 1.0)
    return found


@settings(deadline=None, max_examples=200)
@given(st.lists(chunks, min_size=1, max_size=6))
def test_shares_are_what_the_chunks_say(step: Sequence[Chunk]) -> None:
    """Row by row and slot by slot, for all rows and for those whose logits are wanted."""
    rows, outputs = [], []
    for part in step:
        for at in range(part.position, part.position + len(part.tokens)):
            weights = {a.slot: a.weight for a in part.adapters if a.start <= at}
            rows.append([weights.get(slot, 0.0) for slot in range(3)])
        outputs += rows[len(rows) - part.logits :]
    shares = shares_of(step)
    np.testing.assert_array_equal(matrix(shares, outputs=False), rows)
    np.testing.assert_array_equal(matrix(shares, outputs=True), np.reshape(outputs, (-1, 3)))
