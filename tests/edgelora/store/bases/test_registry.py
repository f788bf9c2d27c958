"""Which bases there are and which is chosen; model files themselves are only referred to."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgelora.core.errors import BaseError, NotFound, StorageError, UsageError
from edgelora.store.bases.record import BUILTIN, BaseRecord, Stamp
from edgelora.store.bases.registry import Bases
from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_safetensors
from tests.support.bases import CONTEXT_LENGTH, MIN_VOCAB, tiny_config, tiny_weights, write_tiny_gguf
from tests.support.records import directories

SHAPE = LlamaShape(layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=32, vocab=MIN_VOCAB, tied=True)


@pytest.fixture
def bases(tmp_path: Path) -> Bases:
    return Bases(directories(tmp_path), clock=lambda: 1_750_000_000.0)


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(
        tmp_path_factory.mktemp("gguf") / "tiny.gguf", SHAPE, seed=1, quantization="Q8_0"
    ).read_bytes()


@pytest.fixture
def model(tmp_path: Path, gguf_bytes: bytes) -> Path:
    path = tmp_path / "models" / "Tiny Llama.gguf"
    path.parent.mkdir()
    path.write_bytes(gguf_bytes)
    return path


def record_path(bases: Bases, name: str) -> Path:
    return bases.directories.data / "bases" / f"{name}.json"


def test_nothing_installed(bases: Bases, tmp_path: Path) -> None:
    """An empty registry lists nothing, touches no disk, and says how to get a base."""
    assert bases.list() == () and bases.names() == () and bases.chosen() is None
    with pytest.raises(BaseError) as caught:
        bases.current()
    assert caught.value.code == "no_base" and "edgelora base pull" in caught.value.remedy
    with pytest.raises(NotFound):
        bases.get("tiny")
    assert list(tmp_path.iterdir()) == []


def test_add_refers_to_the_file(bases: Bases, model: Path) -> None:
    """A local GGUF is registered where it lies, under its own name made safe, with what its header says."""
    record = bases.add(model)
    assert record.name == "tiny-llama" and record.path == model and record.format == "gguf"
    assert (record.context_length, record.quantization, record.nbytes) == (CONTEXT_LENGTH, "Q8_0", model.stat().st_size)
    assert record.identity.fingerprint.shape == SHAPE
    assert (record.origin, record.created) == ("local", 1_750_000_000.0)
    assert bases.list() == (record,) and bases.get("tiny-llama") == record


def test_a_record_survives_the_disk(bases: Bases, model: Path) -> None:
    """A record read back is the record written, fingerprint and chat template included."""
    record = bases.add(model, "tiny", aliases=("org/tiny",), temperature=0.6, top_p=0.9)
    again = Bases(bases.directories).get("tiny")
    assert again == record and again.identity.fingerprint.digest == record.identity.fingerprint.digest
    assert again.identity.chat_template and (again.temperature, again.top_p) == (0.6, 0.9)


def test_an_mlx_folder(bases: Bases, tmp_path: Path) -> None:
    """A folder is an MLX base; its stamp covers all its files."""
    folder = tmp_path / "mlx"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_config(SHAPE)))
    weights = write_safetensors(folder / "model.safetensors", tiny_weights(SHAPE, seed=1))
    record = bases.add(folder, "tiny-mlx")
    assert record.format == "mlx" and record.check() == record
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(BaseError) as caught:
        record.check()
    assert caught.value.code == "base_changed"


def test_use_and_current(bases: Bases, model: Path) -> None:
    """The chosen base is the current one, by name or alias, until another is chosen."""
    bases.add(model, "one", aliases=("org/One",))
    bases.add(model, "two")
    assert bases.use("org/One").name == "one" and bases.chosen() == "one" and bases.current().name == "one"
    bases.use("two")
    assert Bases(bases.directories).current().name == "two"
    with pytest.raises(NotFound) as caught:
        bases.use("tow")
    assert caught.value.near == ("two",)


def test_current_after_removal(bases: Bases, model: Path) -> None:
    """Without the chosen base, the error lists what could be chosen."""
    bases.add(model, "one")
    bases.add(model, "two")
    bases.use("two")
    bases.remove("two")
    with pytest.raises(BaseError) as caught:
        bases.current()
    assert caught.value.code == "no_base" and "two" in caught.value.what and "one" in caught.value.remedy


def test_a_file_that_went_or_changed(bases: Bases, model: Path, gguf_bytes: bytes) -> None:
    """The current base's file is looked at first: gone and changed are told apart."""
    bases.add(model, "tiny")
    bases.use("tiny")
    os.utime(model, ns=(1, 1))
    with pytest.raises(BaseError) as caught:
        bases.current()
    assert caught.value.code == "base_changed" and f"edgelora base add {model}" in caught.value.remedy
    bases.add(model, "tiny")
    assert bases.current().stamp == Stamp(len(gguf_bytes), 1)
    model.unlink()
    with pytest.raises(BaseError) as caught:
        bases.current()
    assert caught.value.code == "base_gone" and str(model) in caught.value.what


def test_remove_leaves_the_users_file(bases: Bases, model: Path) -> None:
    """Forgetting a local base deletes its record and nothing else."""
    bases.add(model, "tiny")
    assert bases.remove("tiny").path == model
    assert model.is_file() and bases.list() == ()
    with pytest.raises(NotFound):
        bases.remove("tiny")


def test_remove_deletes_a_download(bases: Bases, gguf_bytes: bytes) -> None:
    """What `pull` brought goes with its last record."""
    path = bases.downloads / "org--repo" / "0123" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(gguf_bytes)
    bases.add(path, "one", origin="hub:org/repo@1")
    bases.add(path, "two", origin="hub:org/repo@1")
    bases.remove("one")
    assert path.is_file()
    bases.remove("two")
    assert not path.parent.exists() and path.parent.parent.is_dir()


def test_a_name_belongs_to_one_file(bases: Bases, model: Path, gguf_bytes: bytes) -> None:
    """Another local file cannot take a name; the same file, or a newer one of the same origin, can."""
    other = model.with_name("other.gguf")
    other.write_bytes(gguf_bytes)
    first = bases.add(model, "tiny")
    with pytest.raises(UsageError) as caught:
        bases.add(other, "tiny")
    assert caught.value.code == "name_taken" and str(model) in caught.value.what
    with pytest.raises(UsageError):
        bases.add(other, "tiny", origin=BUILTIN)
    assert bases.add(model, "tiny") == first
    bases.add(model, "pulled", origin="hub:org/repo@1")
    assert bases.add(other, "pulled", origin="hub:org/repo@2").path == other
    with pytest.raises(UsageError):
        bases.add(model, "pulled", origin="hub:org/another@1")


@pytest.mark.parametrize("name", ["", "A", "../a", "con", "a/b"])
def test_bad_names(bases: Bases, model: Path, name: str) -> None:
    """A name that could be a path is refused, as a new name and as a known one."""
    with pytest.raises(UsageError):
        bases.add(model, name)
    with pytest.raises(NotFound):
        bases.get(name)
    assert bases.list() == ()


def test_what_is_no_base(bases: Bases, tmp_path: Path, gguf_bytes: bytes) -> None:
    """A path that is not there, a cut file, and a file that is no GGUF leave no record."""
    with pytest.raises(UsageError) as caught:
        bases.add(tmp_path / "absent.gguf")
    assert caught.value.code == "no_such_path"
    (tmp_path / "cut.gguf").write_bytes(gguf_bytes[: len(gguf_bytes) // 2])
    (tmp_path / "text.gguf").write_bytes(b"hello")
    (tmp_path / "empty").mkdir()
    for name in ("cut.gguf", "text.gguf", "empty"):
        with pytest.raises(BaseError):
            bases.add(tmp_path / name)
    assert bases.list() == ()


def changed(record: BaseRecord, bases: Bases, **fields: Any) -> bytes:
    return json.dumps(json.loads(record_path(bases, record.name).read_bytes()) | fields).encode()


def test_a_damaged_record_hides_no_other(bases: Bases, model: Path) -> None:
    """A record that is no record is named by get, and left out of the list."""
    good, bad = bases.add(model, "good"), bases.add(model, "bad")
    path = record_path(bases, "bad")
    damages = [
        b"",
        b"{",
        b"null",
        b"\xff",
        changed(good, bases),
        changed(bad, bases, stamp={}),
        changed(bad, bases, format="pt"),
    ]
    newer = [changed(bad, bases, schema=2), changed(bad, bases, extra=1)]
    for damage in [*damages, *newer]:
        path.write_bytes(damage)
        with pytest.raises(StorageError) as caught:
            bases.get("bad")
        assert caught.value.code == ("store_newer" if damage in newer else "store_damaged")
        assert str(path) in caught.value.what and bases.list() == (good,)


def test_a_damaged_choice_is_no_choice(bases: Bases, model: Path) -> None:
    """A damaged choice costs the choice and nothing more."""
    bases.add(model, "tiny")
    bases.use("tiny")
    (bases.directories.data / "current-base.json").write_bytes(b"{")
    assert bases.chosen() is None
    with pytest.raises(BaseError) as caught:
        bases.current()
    assert caught.value.code == "no_base"


def test_a_full_disk_keeps_the_old_record(bases: Bases, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that cannot be written leaves the old one and no temporary."""
    bases.add(model, "tiny")
    before = sorted(path.name for path in bases.directories.data.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for work in (lambda: bases.add(model, "tiny", temperature=0.5), lambda: bases.add(model, "more")):
        with pytest.raises(StorageError):
            work()
    assert sorted(path.name for path in bases.directories.data.rglob("*")) == before
    assert bases.get("tiny").temperature == 0.0
