"""Adapters by name and weight: how they are written, and what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.core.errors import UsageError
from edgelora.core.model_id import show_weight, split_weight
from edgelora.core.request import AdapterRef, AdapterUse
from edgelora.runtime.composition import compose

REFS = {name: AdapterRef(name, name, Path(name), 1) for name in ("a", "b")}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a", 1.0)),
        ("a=0.7", ("a", 0.7)),
        ("a@3=-1", ("a@3", -1.0)),
        ("tiny:a=.5", ("tiny:a", 0.5)),
        ("tiny:0.7", ("tiny:0.7", 1.0)),  # an adapter may have that name
        ("ft:tiny:org/a-ef36419a0010=2", ("ft:tiny:org/a-ef36419a0010", 2.0)),
    ],
)
def test_every_model_id_may_have_a_weight(text: str, parts: tuple[str, float]) -> None:
    """After a =, which no name has."""
    assert split_weight(text) == parts


@pytest.mark.parametrize("text", ["a=", "a=x", "a=nan", "a=inf", "a=4.5", "a=-5", "=0.5", "a=0.7=b"])
def test_what_is_no_weight_is_refused(text: str) -> None:
    """Never taken for a name, never silently 1."""
    with pytest.raises(UsageError) as caught:
        split_weight(text)
    assert caught.value.code == "bad_weight"


def test_it_is_shown_as_it_is_written() -> None:
    """What is shown can be typed again."""
    for use in (AdapterUse(REFS["a"]), AdapterUse(REFS["a"], 0.7), AdapterUse(REFS["a"], -0.25)):
        assert split_weight(show_weight(use)) == ("a", use.weight)


def test_the_base_adds_nothing() -> None:
    """Its name may stand there, but not with a weight."""
    assert compose({**REFS, "tiny": None}.__getitem__, [("tiny", 1.0), ("a", 0.5)]) == (AdapterUse(REFS["a"], 0.5),)
    with pytest.raises(UsageError, match="tiny is the base"):
        compose({"tiny": None}.__getitem__, [("tiny", 0.5)])
