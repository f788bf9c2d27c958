"""Uploads in parts: what is asked for, and when it is all there."""

from __future__ import annotations

import hashlib

import pytest

from edgelora.core.errors import AdapterCorrupt, AdapterUnsupported, UsageError
from edgelora.server.api.together.parts import MAX_PARTS, ReceivedParts, combined, make_plan

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def offered(*paths: str, parts: int = 1) -> dict[str, tuple[str, int]]:
    return {path: (md5(path.encode()), parts) for path in paths}


def test_only_the_adapters_files_are_asked_for() -> None:
    """At the root or one folder down; tokenizers and the rest are not sent at all."""
    plan = make_plan(offered(CONFIG, WEIGHTS, "README.md", "tokenizer.json"))
    assert [(file.path, file.name) for file in plan.files] == [(CONFIG, CONFIG), (WEIGHTS, WEIGHTS)]
    assert plan.skipped == ("README.md", "tokenizer.json")
    plan = make_plan(offered("sql/" + CONFIG, "sql/" + WEIGHTS))
    assert [(file.path, file.name) for file in plan.files] == [("sql/" + CONFIG, CONFIG), ("sql/" + WEIGHTS, WEIGHTS)]


def test_mlx_lms_files_are_asked_for_too() -> None:
    """Checkpoints beside them are not."""
    plan = make_plan(offered(CONFIG, "adapters.safetensors", "0000100_adapters.safetensors"))
    assert [file.name for file in plan.files] == [CONFIG, "adapters.safetensors"]


def test_an_archive_is_one_file() -> None:
    """If the client offers an archive, the plan has that file."""
    plan = make_plan(offered("my/adapter.tar.gz", "README.md"))
    assert [(file.path, file.name) for file in plan.files] == [("my/adapter.tar.gz", "upload")]


@pytest.mark.parametrize("paths", [("README.md",), (CONFIG,), ("a/b/c/" + CONFIG, "a/b/c/" + WEIGHTS)])
def test_files_that_are_no_adapter_are_refused(paths: tuple[str, ...]) -> None:
    """Before a byte is sent."""
    with pytest.raises(AdapterCorrupt):
        make_plan(offered(*paths))


def test_a_pickle_and_several_adapters_are_refused() -> None:
    """With the converter's own words."""
    for paths, code in (((CONFIG, "adapter_model.bin"), "adapter_is_pickle"),
                        (("a/" + CONFIG, "a/" + WEIGHTS, "b/" + CONFIG, "b/" + WEIGHTS), "adapter_many")):  # fmt: skip
        with pytest.raises(AdapterUnsupported) as caught:
            make_plan(offered(*paths))
        assert caught.value.code == code


def test_too_much_is_refused() -> None:
    """Files and parts are bounded; a file of no parts is no file."""
    for files in ({}, offered(*(f"{n}.json" for n in range(257))), offered(CONFIG, WEIGHTS, parts=MAX_PARTS + 1),
                  offered(CONFIG, WEIGHTS, parts=0)):  # fmt: skip
        with pytest.raises(UsageError):
            make_plan(files)


def test_missing_and_wrong_parts_are_named() -> None:
    """A part nobody asked for, one that did not come, and a file with another hash are each refused by name."""
    parts = [md5(b"one"), md5(b"two")]
    received = ReceivedParts(make_plan({CONFIG: (md5(b"{}"), 1), WEIGHTS: (combined(parts), 2)}))
    for file, part in ((0, 2), (1, 0), (2, 1), (-1, 1)):
        with pytest.raises(UsageError):
            received.check(file, part)
    received.hashes |= {(0, 1): md5(b"{}"), (1, 2): parts[1]}
    with pytest.raises(UsageError, match=r"The parts 1 of adapter_model.safetensors are missing"):
        received.check_complete()
    received.hashes[1, 1] = parts[0]
    received.check_complete()
    received.hashes[1, 1] = md5(b"other")
    with pytest.raises(UsageError) as caught:
        received.check_complete()
    assert caught.value.code == "upload_mismatch"


def test_the_etag_of_several_parts_is_as_object_stores_make_it() -> None:
    """md5 of the md5s, with their number; of one part its own."""
    assert combined([md5(b"a")]) == md5(b"a")
    joined = hashlib.md5(b"a", usedforsecurity=False).digest() + hashlib.md5(b"b", usedforsecurity=False).digest()
    assert combined([md5(b"a"), md5(b"b")]) == f"{md5(joined)}-2"
