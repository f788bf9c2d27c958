"""EdgeLoRA's workload: its distributions, and that a seed says everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.harness.workload import INPUT_TOKENS, OUTPUT_TOKENS, Job, Workload

WORDS = range(1000, 1050)
USUAL = Workload(adapters=50, alpha=1.0, rate=20.0)


def draw(workload: Workload = USUAL, *, seconds: float = 200.0, seed: int = 1) -> list[Job]:
    return workload.jobs(seconds=seconds, tokenizer=WORDS, seed=seed)


def test_a_seed_says_everything() -> None:
    """The same seed gives the same jobs, another one others."""
    assert draw() == draw() != draw(seed=2)


def test_gaps_are_gamma() -> None:
    """Mean and coefficient of variation of the gaps are the asked ones, for whichever is asked."""
    for cv in (0.5, 1.5):
        arrivals = np.array([job.at for job in draw(replace(USUAL, cv=cv), seconds=1000.0)])
        gaps = np.diff(arrivals, prepend=0.0)
        assert gaps.min() >= 0 and arrivals[-1] < 1000.0
        assert gaps.mean() == pytest.approx(1 / 20.0, rel=0.05)
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_adapters_follow_the_power_law(alpha: float) -> None:
    """P(adapter < k) = (k / n)^alpha: uniform at 1, nearly all on the first few at 0.1."""
    chosen = np.array([job.adapter for job in draw(replace(USUAL, alpha=alpha), seconds=500.0)])
    assert chosen.min() >= 0 and chosen.max() < 50
    for k in (1, 5, 25, 49):
        assert (chosen < k).mean() == pytest.approx((k / 50) ** alpha, abs=0.02)


def test_lengths_are_uniform_to_both_ends() -> None:
    """Every length of the range occurs, no other, about equally often."""
    jobs = draw(seconds=1000.0)
    for sizes, (low, high) in (
        ((len(job.prompt) for job in jobs), INPUT_TOKENS),
        ((j.output for j in jobs), OUTPUT_TOKENS),
    ):
        found, counts = np.unique(list(sizes), return_counts=True)
        assert found.tolist() == list(range(low, high + 1))
        assert counts.max() < 2.5 * counts.mean()


def test_prompts_are_of_the_vocabulary_and_differ() -> None:
    """Random tokens of the given ones: no prompt begins as another does."""
    jobs = draw()
    assert {token for job in jobs for token in job.prompt} == set(WORDS)
    assert len({job.prompt[:8] for job in jobs}) == len(jobs)


def test_one_setting_changes_one_thing() -> None:
    """Another alpha changes only the adapters; twice the rate is the same arrivals in half the time."""
    other = draw(replace(USUAL, alpha=0.1))
    assert [replace(job, adapter=0) for job in other] == [replace(job, adapter=0) for job in draw()]
    assert [job.adapter for job in other] != [job.adapter for job in draw()]
    fast = draw(replace(USUAL, rate=40.0), seconds=100.0)
    assert [job.at for job in fast] == pytest.approx([job.at / 2 for job in draw()])
