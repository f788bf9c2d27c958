"""Safetensors files written tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgelora_converters.tensors.safetensors_reader import open_safetensors
from edgelora_converters.tensors.safetensors_writer import Planned, by_width, write_safetensors

VALUES = {
    "b": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a": np.arange(6, dtype=np.float16).reshape(2, 3),
    "é": np.arange(5, dtype=np.float32),
}
DTYPES = {"float32": "F32", "float16": "F16"}


def planned() -> list[Planned]:
    """In blocks of a row each, as large tensors come."""
    return [
        Planned(name, DTYPES[values.dtype.name], values.shape, lambda values=values: iter(values))  # type: ignore[misc]
        for name, values in VALUES.items()
    ]


def test_both_readers_understand_it(tmp_path: Path) -> None:
    """The format's own package and our strict reader give back what was written."""
    path = tmp_path / "a.safetensors"
    write_safetensors(path, by_width(planned()), metadata={"format": "pt", "who": "us"})
    found = load_file(path)
    assert found.keys() == VALUES.keys()
    for name, values in VALUES.items():
        np.testing.assert_array_equal(found[name], values)
    with open_safetensors(path) as file:
        assert file.names == ("b", "é", "a")
        assert file.metadata == {"format": "pt", "who": "us"}


def test_the_same_bytes(tmp_path: Path) -> None:
    """The order in which tensors are handed in does not matter, and no clock or chance does."""
    one, two = tmp_path / "1", tmp_path / "2"
    write_safetensors(one, by_width(planned()), metadata={"b": "2", "a": "1"})
    write_safetensors(two, by_width(reversed(planned())), metadata={"a": "1", "b": "2"})
    assert one.read_bytes() == two.read_bytes()


def test_wrong_plans_are_found(tmp_path: Path) -> None:
    """A tensor whose bytes are not those planned would shift all behind it."""
    short = Planned("a", "F32", (4,), lambda: [np.zeros(3, np.float32)])
    with pytest.raises(ValueError, match="planned with 16 bytes"):
        write_safetensors(tmp_path / "a", [short], metadata={})


def test_nothing_is_replaced(tmp_path: Path) -> None:
    """A file that is there stays as it is."""
    (tmp_path / "a").write_text("precious")
    with pytest.raises(FileExistsError):
        write_safetensors(tmp_path / "a", planned(), metadata={})
    assert (tmp_path / "a").read_text() == "precious"
