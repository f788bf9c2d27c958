"""A lazy mapping: values made when asked for, and never kept."""

from __future__ import annotations

import pytest

from edgelora_converters.tensors.lazy import LazyMapping


def test_values_are_made_when_they_are_asked_for() -> None:
    """Each time anew; asking which keys there are makes none; an unknown key is a KeyError."""
    made: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    lazily = LazyMapping(["b", "a"], make)
    assert (list(lazily), len(lazily), "a" in lazily, made) == (["b", "a"], 2, True, [])
    assert (lazily["a"], lazily["a"], made) == ("A", "A", ["a", "a"])
    assert dict(lazily) == {"a": "A", "b": "B"}
    made.clear()
    assert lazily.keys() ^ {"a", "c"} == {"b", "c"} and made == []
    with pytest.raises(KeyError):
        lazily["c"]
