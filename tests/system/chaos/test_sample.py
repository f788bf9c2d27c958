"""A sample of `python -m tests.system.chaos`, over the fake: one kill of the engine's process and one of the server."""

from __future__ import annotations

import os

import pytest

from tests.system.chaos.arena import chaos

SEED = 6
"""Draws the engine, then the server."""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_few_kills_under_load() -> None:
    """Every client gets an answer or an error, the store is whole, and nothing is left behind."""
    record = chaos(2, kind="fake", seed=SEED)
    assert record.findings == []
    assert (record.counts["killed: engine"], record.counts["killed: server"]) == (1, 1)
