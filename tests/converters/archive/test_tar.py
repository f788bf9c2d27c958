"""archive_tar: out of a tar.gz come exactly an adapter's two files, or nothing and the reason."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgelora_converters.archive import limits as archive_limits
from edgelora_converters.archive import tar as archive_tar
from edgelora_converters.archive.unpack import unpack
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft.folder import FILES
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterUnsupported, EdgeloraError
from tests.support.adapters import TINY
from tests.support.fuzz import mutations

CONFIG, WEIGHTS = FILES
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
Members = Mapping[str, bytes | tarfile.TarInfo]


def packed(members: Members, format: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed tar; a TarInfo stands for itself, without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in members.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                tar.addfile(info)
    return out.getvalue()


def into(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "a.tgz").write_bytes(content)
    folder = tmp_path / "into"
    folder.mkdir()
    return unpack(tmp_path / "a.tgz", folder)


def refused(tmp_path: Path, content: bytes, kind: type[AdapterError] = AdapterCorrupt) -> AdapterError:
    """The error, after checking that nothing was left behind anywhere."""
    with pytest.raises(kind) as caught:
        into(tmp_path, content)
    assert list((tmp_path / "into").iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} <= {"a.tgz", "into", "adapter"}
    return caught.value


def special(kind: bytes, name: str = WEIGHTS) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def folder_entry(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "prefix", ["", "./", "medical-faq/", "./medical-faq/", "out/medical-faq/", "x" * 120 + "/", "ü/"]
)
def test_files_at_the_root_or_in_a_folder(tmp_path: Path, adapter: dict[str, bytes], prefix: str, format: str) -> None:
    """The two files come out as they went in, from any of the three formats, long names and `./` included."""
    extra = {f"{prefix}README.md": b"hello", "optimizer/state": b"0" * 5000, f"{prefix}._{CONFIG}": b"apple's"}
    members: dict[str, bytes | tarfile.TarInfo] = {"./": folder_entry("./")} if prefix.startswith("./") else {}
    members |= {prefix + name: data for name, data in adapter.items()} | extra
    folder = into(tmp_path, gzip.compress(packed(members, FORMATS[format])))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == adapter
    assert len(peft_reader.read(folder, TINY).pairs) == 2


def test_what_tar_itself_writes_is_read(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Python's own archiver, with owners, times and modes as they are on this disk."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(tmp_path / "adapter", ".")
    assert {p.name: p.read_bytes() for p in into(tmp_path, out.getvalue()).iterdir()} == adapter


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "C:evil", "a\\evil", "././evil", "a//evil", "..", "a/./b"],
)
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, adapter: dict[str, bytes], name: str) -> None:
    """Even where the member would only be skipped."""
    assert "misleading name" in refused(tmp_path, gzip.compress(packed({**adapter, name: b"x"}))).what


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"S"],
)
def test_links_devices_and_sparse_files_are_refused(tmp_path: Path, adapter: dict[str, bytes], kind: bytes) -> None:
    """By their type, also in members that would be skipped."""
    members: Members = {**adapter, "x": special(kind, "x")}
    assert "link" in refused(tmp_path, gzip.compress(packed(members, tarfile.USTAR_FORMAT))).what


def test_a_sparse_file_in_pax_records_is_refused(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """GNU tar's newer form of them has the type of a plain file."""
    info = tarfile.TarInfo("x")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    assert "sparse" in refused(tmp_path, gzip.compress(packed({**adapter, "x": info}))).what


def test_a_global_header_renames_nothing(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """A comment, as git archive writes it, is harmless; a path for every member is not."""
    for number, (records, good) in enumerate((({"comment": "0" * 40}, True), ({"path": "x"}, False))):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=records) as tar:
            for name, data in adapter.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        place = tmp_path / str(number)
        place.mkdir()
        if good:
            assert {p.name for p in into(place, gzip.compress(out.getvalue())).iterdir()} == set(FILES)
        else:
            assert "renames" in refused(place, gzip.compress(out.getvalue())).what


@pytest.mark.parametrize("twin", [WEIGHTS, WEIGHTS.upper(), f"./{WEIGHTS}"])
def test_duplicate_names_are_refused(tmp_path: Path, adapter: dict[str, bytes], twin: str) -> None:
    """tar would take the last one; also where they differ only in case or `./`."""
    one, other = packed(adapter).rstrip(b"\0"), packed({twin: b""})
    content = gzip.compress(one + b"\0" * (-len(one) % 512) + other)
    assert "twice" in refused(tmp_path, content).what


def test_a_folder_with_contents_is_refused(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """A folder's entry has no bytes."""
    assert "folder with contents" in refused(tmp_path, gzip.compress(packed({**adapter, "d/": b"data"}))).what


@pytest.mark.parametrize("name", [WEIGHTS, "skipped"])
def test_a_bomb_stops_at_the_ratio(tmp_path: Path, adapter: dict[str, bytes], name: str) -> None:
    """64 MB of zeros in 64 kB, whether the member is wanted or not."""
    error = refused(tmp_path, gzip.compress(packed({CONFIG: adapter[CONFIG], name: b"\0" * (64 << 20)}), 9))
    assert "inflates to more than" in error.what


def test_an_extended_header_is_never_held_in_memory(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Python's tarfile would take a long name of any length in one piece."""
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 32 << 20
    content = gzip.compress(long.tobuf(tarfile.GNU_FORMAT) + b"a" * long.size + packed(adapter))
    tracemalloc.start()
    try:
        assert "extended header" in refused(tmp_path, content).what
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_the_totals_are_capped(tmp_path: Path, adapter: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files together, and all that is inflated."""
    monkeypatch.setattr(archive_limits, "MAX_TOTAL_BYTES", len(adapter[CONFIG]) + len(adapter[WEIGHTS]) - 1)
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    refused(tmp_path / "a", gzip.compress(packed(adapter)))
    monkeypatch.undo()
    monkeypatch.setattr(archive_tar, "MAX_INFLATED_BYTES", len(packed(adapter)) - 1)
    refused(tmp_path / "b", gzip.compress(packed(adapter)))


def test_a_huge_configuration_is_refused(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Its cap is its own."""
    members = adapter | {CONFIG: bytes(i % 251 for i in range((1 << 20) + 1))}
    refused(tmp_path, gzip.compress(packed(members), 0))


def test_many_members_are_refused(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Before there are more than anybody needs."""
    members = adapter | {f"f{i}": b"" for i in range(archive_limits.MAX_MEMBERS)}
    assert "more than 1000 members" in refused(tmp_path, gzip.compress(packed(members), 0)).what


def test_archives_without_one_adapter_are_explained(tmp_path: Path, adapter: dict[str, bytes]) -> None:
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
        assert words in refused(folder, gzip.compress(packed(members)), kind).what


@pytest.mark.parametrize("cut", [2, 10, 30, 400, -1, -8, -30])
def test_cut_files_are_corrupt(tmp_path: Path, adapter: dict[str, bytes], cut: int) -> None:
    """A download that stopped, also within gzip's own checksum."""
    refused(tmp_path, gzip.compress(packed(adapter))[:cut])


def test_a_tar_without_its_end_is_corrupt(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Cut before it was compressed: gzip's checksum is right."""
    plain = packed(adapter)
    assert "cut short" in refused(tmp_path, gzip.compress(plain[: len(plain) // 512 // 2 * 512])).what


def test_what_is_no_tar_is_corrupt(tmp_path: Path) -> None:
    """A gzip of something else."""
    assert "no tar file" in refused(tmp_path, gzip.compress(b"hello" * 300)).what


def test_mutated_archives_never_escape_the_error_tree(tmp_path: Path, adapter: dict[str, bytes]) -> None:
    """Damaged gzip, and damaged tar in sound gzip: the two files, or an EdgeloraError and an empty folder."""
    members = {CONFIG: adapter[CONFIG], WEIGHTS: adapter[WEIGHTS][:500], "x" * 120: b"hello"}
    folder, path = tmp_path / "into", tmp_path / "m.tgz"
    folder.mkdir()
    plain = packed(members, tarfile.GNU_FORMAT)[: 512 * 14]
    refusals = 0
    for number, mutant in enumerate(mutations(plain, seed=5, count=400)):
        path.write_bytes(gzip.compress(mutant, 1))
        refusals += _refuses(path, folder)
        if number % 2:
            damaged = next(mutations(gzip.compress(plain), seed=number, count=1))
            path.write_bytes(b"\x1f\x8b" + damaged[2:])
            refusals += _refuses(path, folder)
    assert 300 < refusals < 600


def _refuses(path: Path, folder: Path) -> bool:
    try:
        unpack(path, folder)
    except EdgeloraError:
        assert list(folder.iterdir()) == []
        return True
    assert {p.name for p in folder.iterdir()} == set(FILES)
    for name in FILES:
        (folder / name).unlink()
    return False
