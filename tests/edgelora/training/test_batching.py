"""Batches: every example once a pass, in an order that the seed alone decides."""

from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.training.batching import groups, order, padded
from edgelora.training.tokens import Encoded


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 9))
@settings(deadline=None, max_examples=50)
def test_every_example_is_in_one_batch(lengths: list[int], size: int) -> None:
    """Neighbours in length together, the last batch as small as what is left."""
    batches = groups(lengths, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[:-1]) and 1 <= len(batches[-1]) <= size
    found = [lengths[index] for batch in batches for index in batch]
    assert found == sorted(found)


@given(st.integers(1, 20), st.integers(0, 100), st.integers(0, 5))
@settings(deadline=None, max_examples=50)
def test_going_on_is_the_same_order(count: int, first: int, seed: int) -> None:
    """From iteration n on come the batches that would have come; a pass has each of them once."""
    whole = list(islice(order(count, seed=seed), first + 2 * count))
    assert whole[first:] == list(islice(order(count, seed=seed, first=first), 2 * count))
    assert sorted(whole[:count]) == list(range(count))


def test_seeds_and_passes_differ() -> None:
    """Another seed is another order, and so is the next pass."""
    first, second = (list(islice(order(20, seed=seed), 40)) for seed in (0, 1))
    assert first[:20] != second[:20] and first[:20] != first[20:]


def test_padding() -> None:
    """Widths are multiples of 32 and one; what is longer than allowed is cut; bounds say what is learnt."""
    short, long = Encoded([1, 2, 3], 1), Encoded(list(range(1, 41)), 10)
    tokens, bounds = padded([short, long], 1000)
    assert tokens.shape == (2, 65) and bounds.tolist() == [[1, 3], [10, 40]]
    assert tokens[0].tolist() == [1, 2, 3, *[0] * 62]
    tokens, bounds = padded([short, long], 16)
    assert tokens.shape == (2, 16) and bounds.tolist() == [[1, 3], [10, 16]]
    np.testing.assert_array_equal(tokens[1], np.arange(1, 17))
