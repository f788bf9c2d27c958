"""archive: which container a path is, and what it is called."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from edgelora_converters.archive.unpack import bare_name, source_kind, unpack
from edgelora_converters.peft.folder import FILES
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported, StorageError, UsageError
from tests.support.adapters import TINY, write_peft


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_peft(tmp_path / "adapter", TINY, targets=["q_proj"])


def test_the_kind_is_by_content(tmp_path: Path, folder: Path) -> None:
    """Folder, zip, tar.gz, whatever they are called; or a refusal that says what is wanted."""
    with zipfile.ZipFile(tmp_path / "no-suffix", "w") as archive:
        archive.write(folder / FILES[0], FILES[0])
    with tarfile.open(tmp_path / "called.zip", "w:gz") as tar:
        tar.add(folder, "adapter")
    (tmp_path / "text.zip").write_text("hello")
    (tmp_path / "some.bin2").write_bytes(b"GGUF\x03\0\0\0")
    (tmp_path / "pointer.zip").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")
    (tmp_path / "empty").write_bytes(b"")
    assert [source_kind(tmp_path / name) for name in ("adapter", "no-suffix", "called.zip", "some.bin2")] == [
        *("folder", "zip", "tar.gz", "gguf")
    ]
    for name, kind in (
        *(("text.zip", AdapterUnsupported), ("adapter_model.bin", AdapterUnsupported)),
        *(("empty", AdapterUnsupported), ("no", UsageError), ("pointer.zip", AdapterCorrupt)),
    ):
        with pytest.raises(kind):
            source_kind(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        *(("a.zip", "a"), ("a.tar.gz", "a"), ("a.TGZ", "a"), ("v1.2.tar.gz", "v1.2"), ("a.gguf", "a")),
        *(("a.b", "a"), ("plain", "plain")),
    ],
)
def test_names_lose_what_says_archive(name: str, bare: str) -> None:
    """`.tar.gz` is one suffix."""
    assert bare_name(Path(name)) == bare


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    """A file in the way is a StorageError."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in FILES:
            archive.write(folder / name, name)
    (tmp_path / "a.zip").write_bytes(out.getvalue())
    with pytest.raises(StorageError):
        unpack(tmp_path / "a.zip", tmp_path / "not-there")
