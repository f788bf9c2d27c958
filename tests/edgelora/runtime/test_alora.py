"""Where an aLoRA begins: PEFT's rule, against PEFT's own words of it and a slow count."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.request import AdapterRef, AdapterUse
from edgelora.runtime.alora import activated, last_occurrence

PLAIN = AdapterRef("plain", "v", Path("p"), 1)
GATED = AdapterRef("gated", "w", Path("g"), 1, (7, 8))


@pytest.mark.parametrize(
    ("prompt", "start"),
    [
        ((7, 8, 1), 0),
        ((1, 7, 8), 1),
        ((7, 8, 1, 7, 8, 2), 3),
        ((7, 8, 7), 0),
        ((7, 7, 8), 1),
        ((8, 7), None),
        ((7,), None),
        ((), None),
    ],
)
def test_the_last_occurrence_counts(prompt: tuple[int, ...], start: int | None) -> None:
    """Its first token is where the adapter begins; half of it at the end is none."""
    assert last_occurrence(GATED.invocation, prompt) == start


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=3), st.lists(st.integers(0, 2), max_size=12))
def test_it_is_the_slow_count(invocation: list[int], prompt: list[int]) -> None:
    """Overlapping occurrences too."""
    size = len(invocation)
    found = [n for n in range(len(prompt)) if prompt[n : n + size] == invocation]
    assert last_occurrence(invocation, prompt) == max(found, default=None)


def test_only_aloras_are_placed(caplog: pytest.LogCaptureFixture) -> None:
    """A plain adapter acts from the beginning; an aLoRA that is not invoked acts nowhere, and the log says so."""
    uses = (AdapterUse(PLAIN, 0.5), AdapterUse(GATED, 0.25))
    assert activated(uses, (1, 7, 8)) == (uses[0], AdapterUse(GATED, 0.25, start=1))
    with caplog.at_level(logging.WARNING):
        assert activated(uses, (1, 8, 7)) == uses[:1]
    assert len(caplog.records) == 1 and "gated" in caplog.text
