"""The public surface of the package."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

import edgelora


def test_all_is_sorted_and_there() -> None:
    """`__all__` is sorted, and every name of it can be had."""
    assert edgelora.__all__ == sorted(edgelora.__all__)
    for name in edgelora.__all__:
        assert getattr(edgelora, name) is not None


def test_unknown_name() -> None:
    """What is not there is an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = edgelora.nothing_of_the_kind  # type: ignore[attr-defined]


def test_import_is_light() -> None:
    """Importing the package imports no other module of it."""
    script = "import sys, edgelora; print(*[name for name in sys.modules if name.startswith('edgelora')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["edgelora"]


@pytest.mark.parametrize(("old", "new"), [("vocabulary", "tokenizer"), ("shelf", "registry")])
def test_renamed_attributes_warn_and_work(old: str, new: str) -> None:
    """For one version; an attribute that never was is an AttributeError as ever."""
    service = object.__new__(edgelora.Service)
    service.registry = service.engine = SimpleNamespace(tokenizer=1)  # type: ignore[assignment]
    with pytest.warns(DeprecationWarning, match=f"Service.{old} is now Service.{new}"):
        assert getattr(service, old) is getattr(service, new)
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = service.nothing
