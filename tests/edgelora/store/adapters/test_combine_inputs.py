"""Adapters with weights, as words."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.core.errors import UsageError
from edgelora.store.adapters.combine_inputs import split_part


@pytest.mark.parametrize(
    ("text", "name", "weight"),
    [
        ("pirate", "pirate", 1.0),
        ("pirate:0.7", "pirate", 0.7),
        ("pirate=0.7", "pirate", 0.7),
        ("pirate@2:-1", "pirate@2", -1.0),
        ("C:/adapters/pirate", "C:/adapters/pirate", 1.0),
        ("C:/adapters/pirate:2", "C:/adapters/pirate", 2.0),
        ("a:b", "a:b", 1.0),
    ],
)
def test_weights(text: str, name: str, weight: float) -> None:
    """Behind the last colon, or a =, where a number is; else the whole is the name."""
    assert split_part(text) == (name, weight)


@pytest.mark.parametrize("text", ["pirate:nan", "pirate:1e9", "pirate=x", ":1"])
def test_no_weights(text: str) -> None:
    """What is no weight from -4 to 4, or has no name before it, is refused."""
    with pytest.raises(UsageError) as caught:
        split_part(text)
    assert caught.value.code == "bad_weight"


def test_a_path_may_have_any_name(tmp_path: Path) -> None:
    """A folder with = in its name is that folder."""
    (tmp_path / "lr=3").mkdir()
    assert split_part(str(tmp_path / "lr=3")) == (str(tmp_path / "lr=3"), 1.0)
