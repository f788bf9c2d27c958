"""What is learnt from step times: estimates other processes do not spoil, bounds that hold on every machine."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.engine.cost_model.step_costs import ENOUGH, FRESH, WINDOW, StepCosts, size_of, sizes
from tests.support.machines import MACHINES, Machine, disturbed


def learnt(step: Machine, *, rows: tuple[int, ...], times: int = ENOUGH) -> StepCosts:
    costs = StepCosts()
    for _ in range(times):
        for number in rows:
            costs.observe(number, step(number))
    return costs


def test_nothing_is_known_of_nothing() -> None:
    """No number is made up."""
    costs = StepCosts()
    assert costs.seconds(1) is None and costs.known(1) is None and costs.guess(1) is None
    assert costs.at_most(1) is None and costs.at_least(1) == 0.0


def test_once_is_an_estimate_and_not_yet_known() -> None:
    """One step may have been disturbed: it bounds from above, and nothing rests on it from below."""
    costs = learnt(lambda rows: 0.5, rows=(4,), times=1)
    assert costs.seconds(4) == 0.5 and costs.at_most(4) == 0.5
    assert costs.known(4) is None and costs.at_least(4) == 0.0
    assert costs.seconds(3) is None and costs.seconds(5) is None, "outside of what was measured"


def test_between_sizes_a_straight_line() -> None:
    """Neither neighbour is exceeded."""
    costs = learnt(lambda rows: 0.1 * rows, rows=(2, 10))
    assert costs.seconds(4) == pytest.approx(0.4) and costs.guess(4) == pytest.approx(0.4)


def test_a_guess_leaves_the_size_itself_out() -> None:
    """So that one disturbed step of it does not keep it from another try."""
    costs = learnt(lambda rows: 0.1 * rows, rows=(2, 10))
    costs.observe(4, 9.0)
    assert costs.seconds(4) == 9.0 and costs.guess(4) == pytest.approx(0.4)


def test_other_processes_do_not_spoil_an_estimate() -> None:
    """Three disturbed steps in four leave it; a machine that really is slower is believed within a window."""
    costs = learnt(lambda rows: 0.1, rows=(1,), times=WINDOW)
    for _ in range(WINDOW * 3 // 4):
        costs.observe(1, 1.0)
    assert costs.seconds(1) == 0.1
    for _ in range(WINDOW // 4):
        costs.observe(1, 1.0)
    assert costs.seconds(1) == 1.0


@pytest.mark.parametrize("machine", MACHINES)
def test_a_busy_machine_is_learnt_as_it_is(machine: Machine) -> None:
    """Within a tenth of the undisturbed step, at every size that was seen some times."""
    for seed in range(5):
        costs = learnt(disturbed(machine, seed=seed, share=0.2), rows=(1, 2, 3, 4, 8, 17, 64, 512), times=WINDOW)
        for rows in (1, 2, 3, 4, 8, 17, 64, 512):
            assert costs.known(rows) == pytest.approx(machine(rows), rel=0.1)


def test_the_best_of_a_known_size() -> None:
    """Its least step, as long as it is among the latest; of a size that is not known nothing."""
    costs = learnt(lambda rows: 0.5, rows=(1,), times=ENOUGH - 1)
    assert costs.best(1) is None
    costs.observe(1, 0.1)
    assert costs.best(1) == 0.1
    for _ in range(WINDOW):
        costs.observe(1, 0.5)
    assert costs.best(1) == 0.5


def test_what_was_not_seen_for_long_is_not_known() -> None:
    """It may be tried again; its last estimate is still better than none."""
    costs = learnt(lambda rows: 0.1 * rows, rows=(1, 8))
    for _ in range(FRESH):
        assert costs.known(8) == pytest.approx(0.8)
        costs.observe(1, 0.1)
    costs.observe(1, 0.1)
    assert costs.known(8) is None and costs.seconds(8) == pytest.approx(0.8) and costs.known(1) == 0.1


@settings(deadline=None, max_examples=100)
@given(
    machine=st.sampled_from(MACHINES),
    seen=st.sets(st.integers(1, 32), min_size=1, max_size=6),
    rows=st.integers(1, 64),
)
def test_the_bounds_hold_on_every_machine(machine: Machine, seen: set[int], rows: int) -> None:
    """Whatever was seen, an undisturbed step lies between them; where it was seen itself both are what it took."""
    costs = learnt(machine, rows=tuple(seen))
    most = costs.at_most(rows)
    # A part that is cut short may cost more than the whole where kernels work in blocks: hence no exact bounds.
    assert costs.at_least(rows) <= machine(rows) * 1.2
    assert most is None or machine(rows) <= most * 1.05
    if rows in seen:
        assert costs.at_least(rows) == costs.known(rows) == machine(rows)
    assert most is not None or 1 not in seen
    assert most is None or rows >= min(seen)


def test_sizes() -> None:
    """Each row count up to 32 is its own, the ends of kernels' blocks stay apart, and larger ones share."""
    assert sizes(34) == tuple(range(1, 33)) and sizes(36)[-1] == 36
    assert [size_of(rows) for rows in (16, 17, 32, 33, 64, 65, 500, 512)] == [16, 17, 32, 36, 64, 72, 512, 512]
    assert all(size_of(rows) in sizes(512) and rows <= size_of(rows) <= rows * 1.13 for rows in range(1, 513))
