"""archive_zip: out of a zip come exactly an adapter's two files, or nothing and the reason."""

from __future__ import annotations

import io
import stat
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgelora_converters.archive import limits as archive_limits
from edgelora_converters.archive import unpack as archive_unpack
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft.folder import FILES
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterUnsupported, EdgeloraError
from tests.support.adapters import TINY
from tests.support.fuzz import mutations

CONFIG, WEIGHTS = FILES
Members = Mapping[str | zipfile.ZipInfo, bytes]


def zipped(members: Members, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file, warnings.catch_warnings(action="ignore"):
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


def unpack(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "a.zip").write_bytes(content)
    into = tmp_path / "into"
    into.mkdir()
    return archive_unpack.unpack(tmp_path / "a.zip", into)


def refused(tmp_path: Path, content: bytes, kind: type[AdapterError] = AdapterCorrupt) -> AdapterError:
    """The error, after checking that nothing was left behind anywhere."""
    with pytest.raises(kind) as caught:
        unpack(tmp_path, content)
    assert list((tmp_path / "into").iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} <= {"a.zip", "into", "adapter"}
    return caught.value


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", ["", "medical-faq/"])
def test_files_at_the_root_or_in_one_folder(
    tmp_path: Path, adapter: dict[str, bytes], prefix: str, method: int
) -> None:
    """The two files come out as they went in, into the folder itself."""
    extra = {f"{prefix}README.md": b"hello", f"{prefix}tokenizer/vocab.json": b"{}", ".gitattributes": b""}
    folder = unpack(tmp_path, zipped({prefix + n: d for n, d in adapter.items()} | extra, method))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == adapter
    assert len(peft_reader.read(folder, TINY).pairs) == 2


def test_folders_of_other_tools_are_skipped(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Entries for folders, macOS's shadow files, and checkpoints beside the adapter."""
    extra = {"a/": b"", f"__MACOSX/{CONFIG}": b"x", f"a/checkpoint-5/{CONFIG}": b"{}"}
    members = extra | {f"a/{n}": d for n, d in adapter.items()}
    assert {p.name for p in unpack(tmp_path, zipped(members)).iterdir()} == set(adapter)


def test_names_by_windows_powershell(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Compress-Archive of PowerShell 5.1 writes `\\` between the folders, for folders' own entries as well."""
    members = {"a\\": b"", "a\\runs\\": b"", **{f"a\\{n}": d for n, d in adapter.items()}}
    folder = unpack(tmp_path, zipped(members))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == adapter


def test_two_spellings_of_one_name_are_twins(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """`a/x` and `a\\x` are one file."""
    twins = {f"a/{n}": d for n, d in adapter.items()} | {f"a\\{WEIGHTS}": b"x"}
    assert "twice" in refused(tmp_path, zipped(twins)).what


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/etc/evil",
        "C:/evil",
        "C:evil",
        "..\\evil",
        "a\\..\\..\\evil",
        "a/..\\evil",
        "\\etc\\evil",
        "\\\\server\\evil",
        "C:\\evil",
        ".\\evil",
        "a\\\\evil",
        "./evil",
        "a//evil",
        "..",
        "a/./b",
    ],
)
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, adapter: dict[str, bytes], name: str) -> None:
    """Even where the member would only be skipped."""
    assert "misleading name" in refused(tmp_path, zipped(adapter | {name: b"x"})).what


def test_a_zero_byte_in_a_name_is_refused(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """The library would cut the name there."""
    refused(tmp_path, zipped(adapter | {"evilXname": b""}).replace(b"evilXname", b"evil\0name"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path: Path, adapter: dict[str, bytes], kind: int) -> None:
    """By the Unix mode in the list of members."""
    link = zipfile.ZipInfo(WEIGHTS)
    link.external_attr = (kind | 0o777) << 16
    assert "link" in refused(tmp_path, zipped({CONFIG: adapter[CONFIG], link: b"/etc/passwd"})).what


@pytest.mark.parametrize("twin", [WEIGHTS, WEIGHTS.upper(), WEIGHTS + "/"])
def test_duplicate_names_are_refused(tmp_path: Path, adapter: dict[str, bytes], twin: str) -> None:
    """Also where they differ only in case, or by being a folder."""
    out = io.BytesIO(zipped(adapter))
    with zipfile.ZipFile(out, "a") as file, warnings.catch_warnings(action="ignore"):
        file.writestr(twin, b"")
    assert "twice" in refused(tmp_path, out.getvalue()).what


def test_a_folder_with_contents_is_refused(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """A folder's entry has no bytes."""
    assert "folder with contents" in refused(tmp_path, zipped(adapter | {"d/": b"data"})).what


def test_a_bomb_stops_at_the_ratio(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """64 MB of zeros in 64 kB."""
    error = refused(tmp_path, zipped({CONFIG: adapter[CONFIG], WEIGHTS: b"\0" * (64 << 20)}))
    assert "inflates to more than" in error.what


def test_a_lying_size_does_not_help_a_bomb(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Bytes are counted as they come, whatever the list of members says."""
    data = zipped({CONFIG: adapter[CONFIG], WEIGHTS: b"\0" * (8 << 20)})
    refused(tmp_path, data.replace((8 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")))


def test_the_total_is_capped(tmp_path: Path, adapter: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files together, stored or not."""
    monkeypatch.setattr(archive_limits, "MAX_TOTAL_BYTES", len(adapter[CONFIG]) + len(adapter[WEIGHTS]) - 1)
    refused(tmp_path, zipped(adapter, zipfile.ZIP_STORED))


def test_a_huge_configuration_is_refused(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Its cap is its own."""
    refused(tmp_path, zipped(adapter | {CONFIG: b" " * ((1 << 20) + 1)}, zipfile.ZIP_STORED))


def test_many_members_are_refused(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Before their list is read."""
    refused(tmp_path, zipped(adapter | {f"f{i}": b"" for i in range(archive_limits.MAX_MEMBERS)}))


def test_encrypted_members_are_unsupported(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """The remedy asks for one without a password."""
    data = bytearray(zipped(adapter))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    assert refused(tmp_path, bytes(data), AdapterUnsupported).code == "zip_encrypted"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_unsupported(tmp_path: Path, adapter: dict[str, bytes], method: int) -> None:
    """Deflate and none are enough."""
    assert refused(tmp_path, zipped(adapter, method), AdapterUnsupported).code == "zip_method"


def test_zips_without_one_adapter_are_explained(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """None, several, too deep, half of one, or a pickle."""
    cases: list[tuple[Members, type[AdapterError], str]] = [
        ({"README.md": b""}, AdapterCorrupt, CONFIG),
        ({CONFIG: adapter[CONFIG]}, AdapterCorrupt, WEIGHTS),
        ({f"a/b/c/{n}": d for n, d in adapter.items()}, AdapterCorrupt, CONFIG),
        ({f"{f}/{n}": d for f in "ab" for n, d in adapter.items()}, AdapterUnsupported, "2 adapters"),
        ({CONFIG: adapter[CONFIG], "adapter_model.bin": b"x"}, AdapterUnsupported, "pickle"),
    ]
    for number, (members, kind, words) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert words in refused(folder, zipped(members), kind).what


@pytest.mark.parametrize("cut", [4, 30, -1, -30])
def test_cut_files_are_corrupt(tmp_path: Path, adapter: dict[str, bytes], cut: int) -> None:
    """A download that stopped."""
    refused(tmp_path, zipped(adapter)[:cut])


def test_a_flipped_bit_in_the_data_is_corrupt(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """The checksum is looked at."""
    data = bytearray(zipped(adapter, zipfile.ZIP_STORED))
    data[data.index(adapter[WEIGHTS]) + 2000] ^= 1
    refused(tmp_path, bytes(data))


def test_mutated_zips_never_escape_the_error_tree(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Damaged archives give the two files as they were, or an EdgeloraError and an empty folder."""
    members = {CONFIG: adapter[CONFIG], WEIGHTS: adapter[WEIGHTS][:500], "README.md": b"hello"}
    path, into = tmp_path / "m.zip", tmp_path / "into"
    into.mkdir()
    refusals = 0
    for mutant in mutations(zipped(members), seed=4, count=600):
        path.write_bytes(mutant)
        try:
            archive_unpack.unpack(path, into)
        except EdgeloraError:
            refusals += 1
            assert list(into.iterdir()) == []
            continue
        for name in FILES:
            assert (into / name).read_bytes() == members[name]
            (into / name).unlink()
    assert 300 < refusals < 600
