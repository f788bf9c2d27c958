"""The built-in base in MLX's form: made when it is first asked for, and again when it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.core.config import read_settings
from edgelora.store.bases.builtin_mlx import ensure_mlx
from edgelora.store.bases.record import BUILTIN
from edgelora.store.bases.registry import Bases
from edgelora.store.bases.selection import choose_base
from edgelora_models import builtin

pytest.importorskip("mlx_lm")
pytestmark = pytest.mark.mlx


@pytest.fixture
def bases(tmp_path: Path) -> Bases:
    found = Bases(read_settings({"EDGELORA_HOME": str(tmp_path)}).directories)
    found.add(builtin.base_gguf(), builtin.BASE_NAME, origin=BUILTIN)
    found.use(builtin.BASE_NAME)
    return found


def test_it_is_made_once(bases: Bases) -> None:
    """On the first use of MLX, as the same model; afterwards it is a base like any other, removed like a download."""
    assert choose_base(bases, None, "auto").format == "gguf"
    made = choose_base(bases, None, "mlx")
    assert (made.name, made.format, made.quantization) == ("edgelora-tiny-mlx", "mlx", "float32")
    assert made.aliases == (builtin.BASE_NAME,)
    assert made.identity.fingerprint == bases.get(builtin.BASE_NAME).identity.fingerprint
    assert ensure_mlx(bases).stamp == choose_base(bases, None, "mlx").stamp == made.stamp
    bases.remove(made.name)
    assert not made.path.exists()
    assert ensure_mlx(bases).path == made.path


def test_a_damaged_one_is_made_again(bases: Bases) -> None:
    """Whatever became of its files."""
    made = ensure_mlx(bases)
    (made.path / "model.safetensors").unlink()
    again = ensure_mlx(bases)
    assert again.check() == again and (again.path / "model.safetensors").is_file()
