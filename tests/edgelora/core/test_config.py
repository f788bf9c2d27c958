"""Settings from the environment."""

from __future__ import annotations

import pytest

from edgelora.core.config import read_settings
from edgelora.core.errors import UsageError


def test_the_kernel_is_one_of_three() -> None:
    """auto without a word; any case; anything else is refused by name."""
    assert read_settings({}).kernel == read_settings({"EDGELORA_KERNEL": " "}).kernel == "auto"
    assert [read_settings({"EDGELORA_KERNEL": name}).kernel for name in ("native", "NumPy")] == ["native", "numpy"]
    with pytest.raises(UsageError, match="EDGELORA_KERNEL is 'cuda'"):
        read_settings({"EDGELORA_KERNEL": "cuda"})


def test_pins_are_names_with_anything_between() -> None:
    """Commas, spaces or both; none without a word."""
    assert read_settings({}).pins == ()
    assert read_settings({"EDGELORA_PIN": " a, b@2,c  d"}).pins == ("a", "b@2", "c", "d")


def test_drafts_are_on_unless_said_otherwise() -> None:
    """auto without a word; off; nothing else."""
    assert read_settings({}).speculate == "auto" and read_settings({"EDGELORA_SPECULATE": "OFF"}).speculate == "off"
    with pytest.raises(UsageError, match="auto or off"):
        read_settings({"EDGELORA_SPECULATE": "always"})


def test_the_backend_is_one_of_three() -> None:
    """auto without a word; either by name; anything else is refused with those."""
    assert read_settings({}).backend == "auto"
    assert [read_settings({"EDGELORA_BACKEND": name}).backend for name in ("MLX", "llama.cpp")] == ["mlx", "llama.cpp"]
    with pytest.raises(UsageError, match=r"auto, mlx or llama\.cpp"):
        read_settings({"EDGELORA_BACKEND": "cuda"})
