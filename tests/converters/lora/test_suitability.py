"""Whether an adapter changes anything, by its values alone."""

from __future__ import annotations

import numpy as np
import pytest

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target, TokenRows
from edgelora_converters.lora.suitability import changes_nothing
from edgelora_models.modules import EMBEDDING, LINEAR_MODULES

TARGET = Target(0, LINEAR_MODULES[0])
ONES = np.ones((2, 4), np.float32)


def adapter(pair: LoraPair, **more: object) -> LoraAdapter:
    return LoraAdapter({TARGET: pair}, "0" * 64, None, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pair", "nothing"),
    [
        (LoraPair(ONES, ONES.T, 1.0), False),
        (LoraPair(ONES, ONES.T * 0, 1.0), True),
        (LoraPair(ONES * 0, ONES.T, 1.0), True),
        (LoraPair(ONES, ONES.T, 0.0), True),
        (LoraPair(ONES, ONES.T * 0, 1.0, bias=np.ones(4, np.float32)), False),
        (LoraPair(ONES, ONES.T * 0, 1.0, bias=np.zeros(4, np.float32)), True),
        (LoraPair(ONES, ONES.T, 0.0, bias=np.ones(4, np.float32)), True),
        (LoraPair(ONES, ONES.T * 0, 1.0, magnitude=np.ones(4, np.float32)), False),
    ],
)
def test_an_adapter_without_effect(pair: LoraPair, nothing: bool) -> None:
    """Zero factors or scale; a bias acts with its scale, and DoRA's magnitudes may act whatever the factors are."""
    assert changes_nothing(adapter(pair)) is nothing


def test_replaced_rows_are_an_effect() -> None:
    """Whatever the factors are."""
    rows = {Target(None, EMBEDDING): TokenRows((1,), np.zeros((1, 4), np.float32))}
    assert not changes_nothing(adapter(LoraPair(ONES, ONES.T * 0, 1.0), token_rows=rows))
