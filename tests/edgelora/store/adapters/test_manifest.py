"""Versions and aliases as values, and a file format that trusts nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.errors import NotFound, StorageError
from edgelora.store.adapters.manifest import (
    LATEST,
    AdapterManifest,
    StoredFile,
    Version,
    decode_manifest,
    encode,
    first_manifest,
)

PATH = Path("/store/manifests/medical-faq.json")


def digest(text: str) -> str:
    return text.ljust(64, "0")


def version(number: int = 1, *, content: str = "aaaaaa1") -> Version:
    return Version(
        number=number,
        digest=digest(content),
        created=1_750_000_000.0,
        files=(
            StoredFile("adapter_config.json", digest("c"), 12),
            StoredFile("adapter_model.safetensors", digest("d"), 30),
        ),
        base_model="meta-llama/Llama-3.1-8B-Instruct",
        base_name="llama-3.1-8b",
        base_fingerprint=digest("f"),
        rank=16,
        alpha="32",
        scales=(2.0, 2.0),
        targets=("q_proj", "v_proj"),
        use_rslora=False,
        parameters=1000,
    )


def three() -> AdapterManifest:
    one = first_manifest("medical-faq", version(1, content="aaaaaa1"))
    return one.adding(version(2, content="aaaaaa2")).adding(version(3, content="123456"))


def test_round_trip() -> None:
    """What is written is what is read."""
    assert decode_manifest(encode(three()), path=PATH) == three()


@pytest.mark.parametrize(
    ("selector", "number"),
    [("1", 1), ("3", 3), (LATEST, 3), ("aaaaaa1", 1), ("aaaaaa20", 2), ("123456", 3), (digest("aaaaaa2"), 2)],
)
def test_find(selector: str, number: int) -> None:
    """A version is found by number, alias, or six and more digits of its digest."""
    assert three().find(selector).number == number


@pytest.mark.parametrize("selector", ["", "4", "0", "-1", "12345", "aaaaaa", "bbbbbb", "LATEST", "01"])
def test_find_refuses(selector: str) -> None:
    """An unknown number, a short or ambiguous prefix finds nothing, and the error lists what there is."""
    with pytest.raises(NotFound) as caught:
        three().find(selector)
    assert "1, 2, 3, latest" in caught.value.remedy


def test_a_new_version_is_the_latest() -> None:
    """Adding moves `latest`; removing it falls back to the newest left; numbers are not reused."""
    manifest = three()
    assert manifest.latest.number == 3
    left = manifest.without(3)
    assert left is not None and left.latest.number == 2 and left.next_number == 4
    older = manifest.without(1)
    assert older is not None and older.latest.number == 3
    alone = left.without(1)
    assert alone is not None and alone.without(2) is None


def test_pointing_moves_an_alias() -> None:
    """An alias may go back to an older version."""
    assert three().pointing(LATEST, 1).latest.number == 1


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(encode(three())) | fields).encode()


def changed_version(**fields: Any) -> bytes:
    tree = json.loads(encode(three()))
    tree["versions"][0] |= fields
    return json.dumps(tree).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        encode(three())[:-10],
        changed(name="other"),
        changed(versions=[]),
        changed(aliases={}),
        changed(aliases={"latest": 9}),
        changed(aliases={"latest": 3, "old": 7}),
        changed(next_number=3),
        changed_version(number=2),
        changed_version(number=0),
        changed_version(digest="../../etc/passwd"),
        changed_version(digest=digest("a") + "\n"),
        changed_version(digest=digest("aaaaaa2")),
        changed_version(files=[{"name": "a", "digest": digest("a"), "nbytes": -1}]),
        changed_version(parameters="many"),
    ],
)
def test_a_damaged_manifest_is_named(data: bytes) -> None:
    """Anything but a sound manifest is a StorageError that names the file and the way out."""
    with pytest.raises(StorageError) as caught:
        decode_manifest(data, path=PATH)
    assert caught.value.code == "store_damaged"
    assert str(PATH) in caught.value.what
    assert "again" in caught.value.remedy


@given(cut=st.integers(0, 5000), flip=st.integers(0, 5000), value=st.integers(0, 255))
@settings(deadline=None, max_examples=150)
def test_any_damage_is_an_error_or_a_sound_manifest(cut: int, flip: int, value: int) -> None:
    """Whatever happens to the bytes, the answer is a manifest that holds together or a StorageError."""
    data = bytearray(encode(three()))
    data[flip % len(data)] = value
    try:
        manifest = decode_manifest(bytes(data[: len(data) - cut % 3]), path=PATH)
    except StorageError:
        return
    assert manifest.latest in manifest.versions


def test_values_are_frozen() -> None:
    """A manifest cannot be changed in place."""
    with pytest.raises(AttributeError):
        three().name = "other"  # type: ignore[misc]
    assert msgspec.structs.replace(three(), name="other").name == "other"


@pytest.mark.parametrize("data", [changed(schema=2), changed(pinned=True), changed_version(unknown=True)])
def test_a_manifest_of_a_newer_edgelora(data: bytes) -> None:
    """It is whole, and the way out is not to delete it."""
    with pytest.raises(StorageError) as caught:
        decode_manifest(data, path=PATH)
    assert caught.value.code == "store_newer" and "do not delete" in caught.value.remedy
