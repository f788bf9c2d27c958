"""`edgelora prefix` over a real store of prefixes and a fake service."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from edgelora.cli.commands.prefix import rm
from edgelora.cli.support.options import prefix_names
from edgelora.store.library import Library
from edgelora.store.prefixes.base_digest import BaseDigests
from edgelora.store.prefixes.origin import ActiveAdapter, Origin
from tests.support.cli import make_app, make_library, run
from tests.support.prefixes import HERE, saved, tokens


@pytest.fixture
def library(library: Library) -> Library:
    """With a named prefix of medical-faq, one of the base alone, and one that was kept by itself."""
    base = BaseDigests(library.prefixes().layout.bases).digest(library.bases.get("tiny").path)
    version = library.store.get("medical-faq").latest.digest
    acting = (ActiveAdapter(version, "/a.gguf", 1.0, 0), ActiveAdapter("e" * 64, "/b.gguf", 0.5, 0))
    for origin, length, name in (
        (Origin(HERE.kv, base, HERE.template, acting[:1]), 20, "clinic"),
        (Origin(HERE.kv, base, HERE.template, ()), 21, "plain"),
        (Origin(HERE.kv, "f" * 64, HERE.template, acting), 22, None),
    ):
        library.prefixes().keep(origin, tokens(length), saved(length), name=name)
    return library


def listed(library: Library) -> list[tuple[object, int]]:
    prefixes = json.loads(run(make_app(library), "prefix", "ls", "--json").stdout)
    return [(prefix["name"], prefix["tokens"]) for prefix in prefixes]


def test_ls_tells_what_is_kept(library: Library) -> None:
    """By the names people gave; what is not installed any more is told by its digest."""
    done = run(make_app(library), "prefix", "ls")
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["NAME", "clinic", "plain", "(automatic)"]
    assert "medical-faq@1" in done.stdout and "medical-faq@1 + eeeeeeeeeeee*0.5" in done.stdout
    assert "(not installed)" in lines[3] and "tiny" in done.stdout and "EDGELORA_PREFIX_DISK" in done.stderr
    prefixes = json.loads(run(make_app(library), "prefix", "ls", "--json").stdout)
    assert prefixes[0]["adapters"][0]["name"] == "medical-faq@1" and prefixes[0]["base"] == "tiny"
    assert prefixes[2]["base"] is None and prefixes[2]["adapters"][1] == {
        "name": None,
        "digest": "e" * 64,
        "weight": 0.5,
        "start": 0,
    }


def test_ls_of_nothing(tmp_path: Path) -> None:
    """It says what to do, and makes no folder."""
    library = make_library(tmp_path / "home")
    done = run(make_app(library), "prefix", "ls")
    assert done.exit_code == 0 and "prefix add" in done.stderr and done.stdout == ""
    assert not library.prefixes().layout.root.exists()


def test_rm_removes_names(library: Library) -> None:
    """All that were named, or none where one is unknown; what was kept by itself only when asked."""
    done = run(make_app(library), "prefix", "rm", "plain", "clinics")
    assert done.exit_code == 3 and "clinic" in done.stderr and len(listed(library)) == 3
    assert run(make_app(library), "prefix", "rm", "plain", "clinic", "plain").exit_code == 0
    assert listed(library) == [(None, 22)]
    assert run(make_app(library), "prefix", "rm").exit_code == 2
    assert run(make_app(library), "prefix", "rm", "--automatic").exit_code == 0
    assert listed(library) == []


def test_an_adapter_takes_its_prefixes_along(library: Library) -> None:
    """Removed by its name, unless the same version is installed under another one."""
    source = library.settings.directories.data.parent / "sources" / "medical-faq"
    library.store.add(source, name="twin", base=library.bases.get("tiny"))
    assert run(make_app(library), "rm", "medical-faq").exit_code == 0
    assert len(listed(library)) == 3
    assert run(make_app(library), "rm", "twin").exit_code == 0
    assert listed(library) == [("plain", 21)]


def test_a_base_takes_its_prefixes_along(library: Library) -> None:
    """Unless another record has the same file's content."""
    record = library.bases.get("tiny")
    copy = record.path.with_name("copy.gguf")
    copy.write_bytes(record.path.read_bytes())
    BaseDigests(library.prefixes().layout.bases).digest(library.bases.add(copy, "copy").path)
    assert run(make_app(library), "base", "rm", "tiny").exit_code == 0
    assert len(listed(library)) == 3
    assert run(make_app(library), "base", "rm", "copy").exit_code == 0
    assert listed(library) == [(None, 22)]


@pytest.mark.parametrize(
    ("content", "arguments", "code"),
    [
        (None, (), "no_such_path"),
        (b"", (), "no_prompt"),
        (b"\xff\xfe\x00", (), "prompt_not_text"),
        (b"Be kind.", ("--name", "a/b"), "bad_name"),
    ],
)
def test_what_cannot_be_added(tmp_path: Path, content: bytes | None, arguments: tuple[str, ...], code: str) -> None:
    """It is refused before the base is loaded."""
    path = tmp_path / "clinic.txt"
    if content is not None:
        path.write_bytes(content)
    done = run(make_app(), "prefix", "add", "medical-faq", "--system", str(path), "--json", *arguments)
    assert done.exit_code == 2 and json.loads(done.stderr)["error"]["code"] == code


def test_names_are_completed(library: Library) -> None:
    """`rm` completes the names of prefixes."""
    ctx = click.Context(rm, obj=make_app(library))
    assert [item.value for item in prefix_names(ctx, rm.params[0], "p")] == ["plain"]
