"""The MLX backend's place: a clear refusal that names the way that works."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from edgelora.backends import mlx
from edgelora.errors import BackendError
from tests.support.lora import GQA


@pytest.mark.parametrize(
    ("installed", "system", "machine", "code", "words"),
    [
        (True, "darwin", "arm64", "mlx_not_built", "not part of this version"),
        (False, "darwin", "arm64", "mlx_missing", "not installed"),
        (False, "linux", "x86_64", "mlx_missing", "Apple Silicon, and this is another machine"),
    ],
)
def test_it_says_what_is_missing_and_what_works(
    installed: bool, system: str, machine: str, code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the package, on and off Apple Silicon: one error with a code, the reason and the remedy."""
    monkeypatch.setattr(mlx, "find_spec", lambda _name: object() if installed else None)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(BackendError, match=words) as caught:
        mlx.open_mlx(Path("base"), shape=GQA)
    assert caught.value.code == code and "GGUF base" in caught.value.remedy
