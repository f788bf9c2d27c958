"""Which base is opened: every pair of a base's format and a backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.core.config import BackendChoice, read_settings
from edgelora.core.errors import NotFound, UsageError
from edgelora.store.bases import selection
from edgelora.store.bases.registry import Bases
from edgelora.store.bases.selection import choose_base
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA
from tests.support.mlx import write_tiny_mlx


@pytest.fixture
def bases(tmp_path: Path) -> Bases:
    """`tiny` as GGUF and `tiny-mlx` as MLX, one model; `other` is another. `tiny` is chosen."""
    found = Bases(read_settings({"EDGELORA_HOME": str(tmp_path / "home")}).directories)
    found.add(write_tiny_gguf(tmp_path / "tiny.gguf", GQA, seed=0), "tiny")
    found.add(write_tiny_mlx(tmp_path / "tiny-mlx", GQA, seed=0), "tiny-mlx")
    found.add(
        write_tiny_gguf(tmp_path / "other.gguf", GQA.__class__(3, 64, 4, 2, 16, 96, GQA.vocab, False), seed=0), "other"
    )
    found.use("tiny")
    return found


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "apple_silicon", lambda: True)


@pytest.mark.parametrize(
    ("name", "backend", "opened"),
    [
        (None, "auto", "tiny"),
        (None, "llama.cpp", "tiny"),
        (None, "mlx", "tiny-mlx"),
        ("tiny-mlx", "auto", "tiny-mlx"),
        ("tiny-mlx", "mlx", "tiny-mlx"),
        ("tiny-mlx", "llama.cpp", "tiny"),
        ("other", "auto", "other"),
    ],
)
def test_every_pair(name: str | None, backend: BackendChoice, opened: str, bases: Bases) -> None:
    """A base in its own backend; in another one its other form, which answers to the name that was given."""
    found = choose_base(bases, name, backend)
    assert found.name == opened
    assert {found.name, *found.aliases} >= {name or "tiny"}


@pytest.mark.usefixtures("apple")
@pytest.mark.parametrize(
    ("name", "backend", "opened"),
    [(None, "auto", "tiny-mlx"), ("tiny", "auto", "tiny"), (None, "llama.cpp", "tiny"), ("other", "auto", "other")],
)
def test_apple_silicon(name: str | None, backend: BackendChoice, opened: str, bases: Bases) -> None:
    """There MLX is the default where an MLX form of the chosen base is installed; a base that is named is that base."""
    assert choose_base(bases, name, backend).name == opened


@pytest.mark.usefixtures("apple")
def test_apple_silicon_without_an_mlx_form(bases: Bases) -> None:
    """auto opens what there is."""
    bases.use("other")
    assert choose_base(bases, None, "auto").name == "other"


@pytest.mark.parametrize(("gone", "name", "backend"), [("tiny-mlx", "tiny", "mlx"), ("tiny", "tiny-mlx", "llama.cpp")])
def test_no_form_for_it(gone: str, name: str, backend: BackendChoice, bases: Bases) -> None:
    """Refused with what to install, and the backend that would do."""
    bases.remove(gone)
    with pytest.raises(UsageError) as caught:
        choose_base(bases, name, backend)
    assert caught.value.code == "backend_base"
    assert "edgelora base pull" in caught.value.remedy
    assert f"--backend {'llama.cpp' if backend == 'mlx' else 'mlx'}" in caught.value.remedy


def test_an_unknown_name(bases: Bases) -> None:
    """Is an unknown name, whatever the backend."""
    with pytest.raises(NotFound):
        choose_base(bases, "nobody", "mlx")
