"""Opening an MLX base: what is missing is said with the way that works, and what is no base is refused by name."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from edgelora.backends.mlx import open as mlx
from edgelora.core.errors import BackendError
from tests.support.lora import GQA


@pytest.mark.parametrize(
    ("system", "machine", "words"),
    [("darwin", "arm64", "not installed"), ("linux", "x86_64", "Apple Silicon, and this is another machine")],
)
def test_it_says_what_is_missing_and_what_works(
    system: str, machine: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package, on and off Apple Silicon: one error with a code, the reason and the remedy."""
    monkeypatch.setattr(mlx, "find_spec", lambda _name: None)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(BackendError, match=words) as caught:
        mlx.open_mlx(Path("base"), shape=GQA)
    assert caught.value.code == "mlx_missing" and "GGUF base" in caught.value.remedy
