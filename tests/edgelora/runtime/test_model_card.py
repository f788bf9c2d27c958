"""What a model list says of an adapter's place in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.core.request import AdapterRef
from edgelora.engine.adapters.pool import PoolEntry
from edgelora.runtime.model_card import model_card

REF = AdapterRef("medical-faq", "a" * 64, Path("x"), 5)


@pytest.mark.parametrize(("resident", "pinned"), [(False, True), (True, False), (True, True)])
def test_an_adapter_that_is_being_loaded_is_not_in_memory_yet(resident: bool, pinned: bool) -> None:
    """Its place in the pool is reserved, and may be pinned, before it is read."""
    entry = PoolEntry(REF, 0, resident, 0, pinned, 1, 0.0)
    card = model_card("medical-faq", 1, "tiny", "medical-faq@aaaa", entry)
    assert (card.resident, card.pinned) == (resident, pinned)


def test_an_adapter_without_a_place() -> None:
    """Neither in memory nor pinned."""
    card = model_card("medical-faq", 1, "tiny", "medical-faq@aaaa", None)
    assert (card.resident, card.pinned) == (False, False)
