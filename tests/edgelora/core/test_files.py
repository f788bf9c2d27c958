"""Names that are safe on every system, and writes that are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core import files
from edgelora.core.errors import Busy, UsageError
from edgelora_models import storage

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["a", "medical-faq", "0.5b_v2", "llama-3.1-8b", "x" * 128, "console"])
def test_valid_names(name: str) -> None:
    """Small letters, digits and . _ - make a name."""
    assert files.check_name(name, kind="adapter") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "-a", ".a", "A", "a/b", "a\\b", "../a", "a b", "a\n", "a@1", "a:b", "ä", "x" * 129, "a."),
        *("a\0", "con", "nul", "com1", "lpt9.json", "aux.tar.gz"),
    ],
)
def test_invalid_names(name: str) -> None:
    """Paths, capitals, what Windows takes for a device, and a trailing newline or dot are no names."""
    assert not files.valid_name(name)
    with pytest.raises(UsageError) as caught:
        files.check_name(name, kind="adapter")
    assert caught.value.code == "bad_name"


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=200)
def test_a_suggested_name_is_valid_or_refused(text: str) -> None:
    """Whatever a folder is called, its suggested name is valid, or there is none."""
    try:
        name = files.suggest_name(text, kind="adapter")
    except UsageError:
        return
    assert files.valid_name(name)


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=200)
def test_inside_never_leaves_its_root(text: str) -> None:
    """A joined path has the root as its very parent, or is refused."""
    root = Path("/somewhere/store")
    try:
        path = files.inside(root, text)
    except UsageError:
        return
    assert path.parent == root
    assert Path(os.path.normpath(path)) == path


def test_suggest_name_examples() -> None:
    """Capitals and blanks become what a person would have written."""
    assert files.suggest_name("Medical FAQ (v2)", kind="adapter") == "medical-faq-v2"
    assert files.suggest_name("_checkpoint-500", kind="adapter") == "checkpoint-500"
    with pytest.raises(UsageError):
        files.suggest_name("???", kind="adapter")
    with pytest.raises(UsageError):
        files.suggest_name("NUL", kind="adapter")


@pytest.mark.parametrize(
    ("text", "valid"), [("0" * 64, True), ("0" * 63, False), ("F" * 64, False), ("a" * 64 + "\n", False)]
)
def test_digests(text: str, valid: bool) -> None:
    """A digest is 64 small hex digits and nothing else."""
    assert files.valid_digest(text) is valid


def test_sweep_takes_old_temporaries_only(tmp_path: Path) -> None:
    """A day-old temporary goes, a young one and everything else stay."""
    old_file, old_folder, young = (storage.temp_path(tmp_path) for _ in range(3))
    old_file.write_bytes(b"x")
    old_folder.mkdir()
    (old_folder / "inner").write_bytes(b"x")
    young.write_bytes(b"x")
    other = tmp_path / "a.json"
    other.write_bytes(b"x")
    now = other.stat().st_mtime
    for path in (old_file, old_folder, other):
        os.utime(path, (now - 2 * files.TEMP_MAX_AGE,) * 2)
    assert files.sweep(tmp_path, now=now) == 2
    assert names_in(tmp_path) == {young.name, "a.json"}


def test_workspace_is_gone_whatever_happens(tmp_path: Path) -> None:
    """A temporary folder ends with its block, also by an error."""
    with pytest.raises(RuntimeError), files.workspace(tmp_path) as work:
        (work / "inner").mkdir()
        raise RuntimeError
    assert names_in(tmp_path) == set()


def test_copy_hashed(tmp_path: Path) -> None:
    """A copy's digest is that of the bytes."""
    data = os.urandom(3 * files.CHUNK + 1)
    (tmp_path / "a").write_bytes(data)
    digest, nbytes = files.copy_hashed(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data
    assert digest == hashlib.sha256(data).hexdigest() == files.file_digest(tmp_path / "b")
    assert nbytes == len(data)


def test_locked_excludes_other_threads(tmp_path: Path) -> None:
    """One holder at a time; who cannot wait is told Busy."""
    path = tmp_path / "locks" / "a.lock"
    result: list[str] = []

    def contend() -> None:
        try:
            with files.locked(path, timeout=0.05, busy="Somebody is at it."):
                result.append("entered")
        except Busy as error:
            result.append(error.what)

    with files.locked(path, timeout=1, busy=""):
        thread = threading.Thread(target=contend)
        thread.start()
        thread.join()
    contend()
    assert result == ["Somebody is at it.", "entered"]


def test_locked_lets_errors_of_its_body_through(tmp_path: Path) -> None:
    """An OSError of the work itself is not taken for one of the lock."""
    with pytest.raises(TimeoutError), files.locked(tmp_path / "a.lock", timeout=1, busy=""):
        raise TimeoutError


@pytest.mark.parametrize(("name", "suggested"), [("Medical", "'medical'"), ("My FAQ", "'my-faq'"), ("-a", "'a'")])
def test_a_refused_name_comes_with_a_valid_one(name: str, suggested: str) -> None:
    """And with the rule."""
    with pytest.raises(UsageError) as caught:
        files.check_name(name, kind="adapter")
    assert suggested in caught.value.remedy and "small letters" in caught.value.remedy


def test_a_name_without_a_latin_letter() -> None:
    """Nothing of it is left: the message names it, and the option."""
    with pytest.raises(UsageError) as caught:
        files.suggest_name("模型", kind="adapter")
    assert "模型" in caught.value.what and "--name" in caught.value.remedy
