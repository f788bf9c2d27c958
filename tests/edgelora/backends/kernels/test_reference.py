"""The numpy LoRA delta: the reference that other kernels are tested against."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora.backends.kernels.reference import Factors, Group, add_delta


def _factors(rng: np.random.Generator, rank: int, width: int, out: int) -> Factors:
    a, b = rng.standard_normal((rank, width)), rng.standard_normal((rank, out))
    return Factors(a.astype(np.float32), b.astype(np.float32))


def _slow(x: NDArray[np.float32], factors: Factors) -> NDArray[np.float64]:
    """One row, term by term, in float64."""
    total = np.zeros(factors.b.shape[1])
    for a, b in zip(factors.a.astype(np.float64), factors.b.astype(np.float64), strict=True):
        total += float(a @ x.astype(np.float64)) * b
    return total


@given(
    seed=st.integers(0, 2**16),
    sizes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), min_size=1, max_size=5),
)
@settings(max_examples=40, deadline=None)
def test_each_row_gets_its_own_delta(seed: int, sizes: list[tuple[int, int, bool]]) -> None:
    """Whatever the groups, a row changes by its own adapter's product, and a row of none does not change at all."""
    rng = np.random.default_rng(seed)
    groups, owners = [], []
    for rows, rank, adapted in sizes:
        factors = _factors(rng, rank, width=6, out=9)
        if adapted:
            groups.append(Group(len(owners), len(owners) + rows, factors))
        owners += [factors if adapted else None] * rows
    x = rng.standard_normal((len(owners), 6)).astype(np.float32)
    before = rng.standard_normal((len(owners), 9)).astype(np.float32)
    y = before.copy()
    add_delta(y, x, groups)
    for row, factors in enumerate(owners):
        if factors is None:
            assert np.array_equal(y[row], before[row])
        else:
            assert np.allclose(y[row], before[row] + _slow(x[row], factors), rtol=1e-5, atol=1e-4)


def test_strided_rows_are_written_in_place() -> None:
    """y and x may be views with gaps between rows, as a graph's memory can have; the gaps stay as they were."""
    rng = np.random.default_rng(0)
    memory = np.zeros((3, 12), np.float32)
    x = rng.standard_normal((3, 8)).astype(np.float32)[:, :6]
    factors = _factors(rng, 2, width=6, out=9)
    add_delta(memory[:, :9], x, [Group(1, 3, factors)])
    assert np.allclose(memory[1:, :9], x[1:] @ factors.a.T @ factors.b, atol=1e-5)
    assert not memory[0].any() and not memory[:, 9:].any()


def test_tokens_look_up_their_rows() -> None:
    """The embedding's delta of a row is its token's row of a, times b: as with a one-hot input."""
    rng = np.random.default_rng(1)
    plain = _factors(rng, 3, width=7, out=9)
    tokens = np.array([6, 0, 6, 2], np.int32)
    looked_up = rng.standard_normal((4, 9)).astype(np.float32)
    multiplied, bias = looked_up.copy(), np.arange(9, dtype=np.float32)
    lookup = Factors(np.ascontiguousarray(plain.a.T), plain.b, bias=bias, multiplier=0.5, lookup=True)
    product = Factors(plain.a, plain.b, bias=bias, multiplier=0.5)
    add_delta(looked_up, tokens, [Group(1, 4, lookup)])
    add_delta(multiplied, np.eye(7, dtype=np.float32)[tokens], [Group(1, 4, product)])
    assert np.allclose(looked_up, multiplied, atol=1e-6)


def test_a_scale_and_a_bias_by_hand() -> None:
    """A row becomes scale * (y + delta) + bias; weight and gate take a share of that change."""
    a, b = np.array([[1.0, 2.0]], np.float32), np.array([[3.0, -1.0]], np.float32)
    scale, bias = np.array([2.0, 0.5], np.float32), np.array([10.0, 0.0], np.float32)
    y, x = np.array([[1.0, 4.0], [1.0, 4.0]], np.float32), np.array([[1.0, 1.0], [1.0, 1.0]], np.float32)
    add_delta(y, x, [Group(0, 2, Factors(a, b, scale, bias), 0.5, np.array([1.0, 2.0], np.float32))])
    whole = np.array([2.0 * (1 + 9) + 10, 0.5 * (4 - 3)])
    assert np.allclose(y, [(np.array([1.0, 4.0]) + whole) / 2, whole])
