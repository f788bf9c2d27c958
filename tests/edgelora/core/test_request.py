"""Requests: what acts in one, in the one order in which it is kept."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path

import pytest

from edgelora.core.errors import UsageError
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams


def ref(name: str, version: str = "v") -> AdapterRef:
    return AdapterRef(name, version, Path(f"{name}.gguf"), 1)


def request(*uses: AdapterUse) -> Request:
    return Request("r", (1,), uses, SamplingParams())


def test_the_order_does_not_matter() -> None:
    """Two requests that name the same adapters are alike."""
    one, other = AdapterUse(ref("a"), 0.7), AdapterUse(ref("b"), 0.3, start=5)
    assert request(one, other) == request(other, one)


def test_weight_zero_is_not_there() -> None:
    """No adapter is loaded to add nothing."""
    assert request(AdapterUse(ref("a"), 0.0), AdapterUse(ref("b"), -0.0)).adapters == ()


@pytest.mark.parametrize(
    "uses",
    [
        (AdapterUse(ref("a"), nan),),
        (AdapterUse(ref("a"), inf),),
        (AdapterUse(ref("a"), 4.1),),
        (AdapterUse(ref("a"), -5.0),),
        (AdapterUse(ref("a"), start=-1),),
        (AdapterUse(ref("a"), 0.5), AdapterUse(ref("b")), AdapterUse(ref("a"), 0.25)),
        (AdapterUse(ref("a"), 0.5), AdapterUse(ref("a"), 0.0)),
    ],
)
def test_what_cannot_be_is_refused(uses: tuple[AdapterUse, ...]) -> None:
    """A weight that is no number or out of range, a start below 0, an adapter twice: the field is named."""
    with pytest.raises(UsageError) as caught:
        request(*uses)
    assert caught.value.param == "adapters"
