"""The native kernel equals the numpy reference, on every instruction set this machine has, and stays in its bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora.backends.kernels import native, reference
from edgelora.backends.kernels.reference import Factors, Group
from edgelora_converters.tensors.dtypes import widened

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernel was not built")

MARGIN = 40
"""Values before and after every array that nobody may write."""
TYPES = ("float32", "float16", "bfloat16")


def guarded(values: NDArray[np.float32], *, gap: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A copy of [rows, width] with `gap` values after each row, inside memory full of NaN; and that whole memory."""
    rows, width = values.shape
    memory = np.full(2 * MARGIN + rows * (width + gap), np.nan, np.float32)
    view = memory[MARGIN : len(memory) - MARGIN].reshape(rows, width + gap)[:, :width]
    view[:] = values
    return view, memory


def stored(values: NDArray[Any], kind: str) -> NDArray[Any]:
    """As a file of that dtype would give it."""
    if kind == "bfloat16":
        return np.ascontiguousarray(values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return np.ascontiguousarray(values, dtype=kind)


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[Any], list[Group]]:
    """What was computed, its input, and groups: of products, or of tokens that look up their rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, width, out = draw(st.integers(0, 11)), draw(st.integers(1, 150)), draw(st.integers(1, 600))
    lookup = draw(st.booleans())
    groups = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, rows))
        stop = draw(st.integers(start, rows))
        rank = draw(st.integers(1, 70))
        kinds = draw(st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)))
        extras = [rng.standard_normal(out, np.float32) if draw(st.booleans()) else None for _ in range(2)]
        a = stored(rng.standard_normal((width, rank) if lookup else (rank, width)), kinds[0])
        b = stored(rng.standard_normal((rank, out)) / np.sqrt(rank), kinds[1])
        gate = rng.integers(0, 3, stop - start).astype(np.float32) / 2 if draw(st.booleans()) else None
        weight = draw(st.sampled_from([1.0, 0.0, -0.5, 1.75]))
        multiplier = draw(st.sampled_from([1.0, 0.0, -2.0, 0.7071067690849304]))
        groups.append(Group(start, stop, Factors(a, b, *extras, multiplier, lookup), weight, gate))
    x: NDArray[Any] = rng.standard_normal((rows, width), np.float32)
    if lookup:
        x = rng.integers(0, width, rows).astype(np.int32)
    return rng.standard_normal((rows, out), np.float32), x, groups


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", native.instruction_sets())
@given(case=cases(), gap=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_it_equals_the_reference(
    isa: str, threads: int, case: tuple[NDArray[np.float32], NDArray[Any], list[Group]], gap: int
) -> None:
    """Any shape, rank, grouping, dtype, scale and weight of any kind; nothing outside y is written, x never."""
    before, x, groups = case
    expected = before.astype(np.float64)
    reference.add_delta(expected, x if x.ndim == 1 else x.astype(np.float64), groups)  # type: ignore[arg-type]
    y, memory = guarded(before, gap=gap)
    inputs, input_memory = (x, x) if x.ndim == 1 else guarded(x, gap=gap)
    input_before = input_memory.copy()
    native.add_delta(y, inputs, groups, isa=isa, threads=threads)
    limit = 2e-6 * (1 + np.abs(expected)) * np.sqrt((x.shape[1] if x.ndim == 2 else 1) + 70) * 4 ** len(groups)
    assert (np.abs(y - expected) <= limit).all()
    assert np.isnan(memory).sum() == memory.size - y.size
    assert np.array_equal(input_memory, input_before, equal_nan=True)


@pytest.mark.parametrize("isa", native.instruction_sets())
@pytest.mark.parametrize("kind", TYPES)
def test_a_row_has_the_bits_it_has_alone(isa: str, kind: str) -> None:
    """Neither the rows beside it nor the number of threads change a result: summation order is fixed."""
    rng = np.random.default_rng(5)
    factors = Factors(stored(rng.standard_normal((19, 333)), kind), stored(rng.standard_normal((19, 777)), kind))
    x = rng.standard_normal((9, 333), np.float32)
    y = rng.standard_normal((9, 777), np.float32)
    together, alone = y.copy(), y.copy()
    native.add_delta(together, x, [Group(0, 9, factors)], isa=isa, threads=2)
    for row in range(9):
        native.add_delta(alone[row : row + 1], x[row : row + 1], [Group(0, 1, factors)], isa=isa, threads=1)
    assert np.array_equal(together, alone)


@pytest.mark.parametrize("isa", native.instruction_sets())
def test_all_halves_are_widened_exactly(isa: str) -> None:
    """Every finite float16 and bfloat16, subnormals and zeros of both signs included."""
    bits = np.arange(2**16, dtype=np.uint16)
    for halves in (bits.view(np.float16), bits):
        wide = widened(halves)
        finite = np.isfinite(wide)
        wanted, picked = wide[finite], np.ascontiguousarray(halves[finite])[None]
        y = np.zeros((1, len(wanted)), np.float32)
        one = np.ones((1, 1), np.float32)
        native.add_delta(y, one, [Group(0, 1, Factors(one, picked))], isa=isa)
        assert np.array_equal(y[0], wanted)


def test_arrays_that_do_not_fit_are_refused() -> None:
    """Widths, ranges, ranks, gates and layouts are checked before native code sees an address."""
    a, b = np.ones((2, 4), np.float32), np.ones((2, 6), np.float32)
    y, x = np.zeros((3, 6), np.float32), np.zeros((3, 4), np.float32)
    short = np.ones(2, np.float32)
    for wrong in (
        Group(0, 4, Factors(a, b)),
        Group(-1, 1, Factors(a, b)),
        Group(0, 3, Factors(b, b)),
        Group(0, 3, Factors(a, b[:1])),
        Group(0, 3, Factors(a, b.T.copy().T)),
        Group(0, 3, Factors(a, b, scale=short)),
        Group(0, 3, Factors(a, b, bias=short)),
        Group(0, 3, Factors(a, b), gate=short),
        Group(0, 3, Factors(a.T.copy(), b, lookup=True)),
    ):
        with pytest.raises(ValueError):
            native.add_delta(y, x, [wrong])
    with pytest.raises(ValueError):
        native.add_delta(y[:, ::2], x, [])
    looking_up = Group(0, 3, Factors(a.T.copy(), b, lookup=True))
    for tokens in ([0, 1, 4], [0, -1, 1], [0, 1]):
        with pytest.raises(ValueError):
            native.add_delta(y, np.array(tokens, np.int32), [looking_up])
    with pytest.raises(ValueError):
        native.add_delta(y, np.zeros(3, np.int64), [looking_up])
    assert not y.any()


@pytest.mark.parametrize("isa", native.instruction_sets())
def test_row_scales_are_of_what_the_base_computed(isa: str) -> None:
    """Two adapters with row scales on one row give the same in either order: no change is of another's."""
    rng = np.random.default_rng(2)
    scales = rng.uniform(0.5, 2, (2, 90)).astype(np.float32)
    factors = [Factors(*(rng.standard_normal((3, n), np.float32) for n in (40, 90)), scale) for scale in scales]
    x, before = rng.standard_normal((4, 40), np.float32), rng.standard_normal((4, 90), np.float32)
    groups = [Group(1, 4, factors[0], 0.5), Group(0, 3, factors[1], -1.5)]
    wanted, one, other = before.copy(), before.copy(), before.copy()
    for group in groups:
        alone = before.copy()
        reference.add_delta(alone, x, [group])
        wanted += alone - before
    native.add_delta(one, x, groups, isa=isa, threads=2)
    native.add_delta(other, x, groups[::-1], isa=isa, threads=1)
    assert np.allclose(one, wanted, rtol=1e-5, atol=1e-4) and np.allclose(other, wanted, rtol=1e-5, atol=1e-4)
