"""Paths from clients: only below an allowed folder, links resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.core.errors import UsageError
from edgelora.server.api.vllm import allowed_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with an adapter and an archive, and beside it a secret."""
    folder = tmp_path / "root"
    (folder / "sql").mkdir(parents=True)
    (folder / "sql" / "adapter_config.json").write_text("{}")
    (folder / "a.zip").write_bytes(b"PK")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "adapter_config.json").write_text("{}")
    return folder


def test_what_lies_below_a_root_is_taken(root: Path) -> None:
    """By its absolute path, or relative to the root; the other roots do not matter."""
    for text in ("sql", "a.zip", str(root / "sql"), "sql/../sql", "./sql"):
        path = allowed_path(text, (root.parent / "missing", root))
        assert path.parent == root.resolve()


@pytest.mark.parametrize(
    "text", ["../secret", "/etc/passwd", "/", "sql/../../secret", "missing", "\0", "a" * 5000, "~"]
)
def test_nothing_else_is(root: Path, text: str) -> None:
    """The reply is the same whether the path exists or not; without roots no path is allowed."""
    for roots in ((root,), ()):
        with pytest.raises(UsageError) as caught:
            allowed_path(text, roots)
        assert caught.value.code == "path_not_allowed" and text not in str(caught.value)


def test_links_that_lead_out_are_not_followed(root: Path) -> None:
    """Neither of a folder, nor of a file in it, nor of one a level down; one that stays inside is fine."""
    secret = root.parent / "secret"
    (root / "out").symlink_to(secret)
    (root / "file").mkdir()
    (root / "file" / "adapter_model.safetensors").symlink_to(secret / "adapter_config.json")
    (root / "deep").mkdir()
    (root / "deep" / "adapter").symlink_to(secret)
    (root / "nested" / "x").mkdir(parents=True)
    (root / "nested" / "x" / "adapter_config.json").symlink_to(secret / "adapter_config.json")
    (root / "circle").symlink_to(root / "circle")
    (root / "inside").symlink_to(root / "sql")
    for text in ("out", "file", "deep", "nested", "circle"):
        with pytest.raises(UsageError):
            allowed_path(text, (root,))
    assert allowed_path("inside", (root,)) == (root / "sql").resolve()
