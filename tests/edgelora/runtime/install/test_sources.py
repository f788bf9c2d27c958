"""Every source of an adapter becomes an installed version, or an error that names no place of the server's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgelora.core.errors import AdapterError, NotFound
from edgelora.runtime.install.sources import (
    HubSource,
    InstalledSource,
    InstallResult,
    PartsSource,
    PathSource,
    Source,
    UploadSource,
    install,
)
from edgelora.store.library import Library
from edgelora.store.uploads import Uploads
from tests.support.adapters import write_peft
from tests.support.cli import SHAPE
from tests.support.hub import Hub, Repo, running_hub
from tests.support.managing import FILES, zipped


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", budget_bytes=1 << 30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_peft(tmp_path / "trained", SHAPE, seed=9)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        template = f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield running


def take(source: Source, library: Library, uploads: Uploads, name: str = "sql") -> InstallResult:
    return install(source, name=name, library=library, base=library.bases.get("tiny"), uploads=uploads)


def send(uploads: Uploads, data: bytes) -> UploadSource:
    incoming = uploads.begin()
    incoming.write(data)
    try:
        return UploadSource(incoming.keep(filename="mine.zip", purpose="fine_tuning", seconds=60))
    finally:
        incoming.close()


def test_every_source_gives_the_same_version(library: Library, uploads: Uploads, folder: Path, hub: Hub) -> None:
    """One content under several names is one version, with where each name has it from."""
    data = {name: (folder / name).read_bytes() for name in FILES}
    hub.repos["org/sql"] = Repo(data)
    halves = []
    for number, half in enumerate((data[FILES[1]][:1000], data[FILES[1]][1000:])):
        halves.append(folder.parent / f"half-{number}")
        halves[-1].write_bytes(half)
    upload = send(uploads, zipped(folder))
    sources: dict[str, Source] = {
        "from-upload": upload,
        "from-hub": HubSource("org/sql"),
        "from-path": PathSource(folder),
        "from-pieces": PartsSource({FILES[0]: (folder / FILES[0],), FILES[1]: tuple(halves)}),
        "from-installed": InstalledSource("from-path@1"),
    }
    made = {name: take(source, library, uploads, name) for name, source in sources.items()}
    assert len({one.version.digest for one in made.values()}) == 1
    origins = {name: one.version.origin for name, one in made.items()}
    assert origins == {
        "from-upload": f"upload:{upload.file.id}", "from-hub": "hub:org/sql@" + "c0" * 20,
        "from-path": "loaded", "from-pieces": "upload", "from-installed": "loaded",
    }  # fmt: skip
    assert library.store.verify() == () and not list((folder.parent / "uploads" / "tmp").iterdir())


def test_an_archive_may_come_in_pieces(library: Library, uploads: Uploads, folder: Path, tmp_path: Path) -> None:
    """Then it is the one file there is."""
    (tmp_path / "piece").write_bytes(zipped(folder))
    assert take(PartsSource({"upload": (tmp_path / "piece",)}), library, uploads).version.rank == 4


def test_what_is_wrong_is_told_by_the_senders_name_for_it(library: Library, uploads: Uploads, tmp_path: Path) -> None:
    """No folder of the server's stands in the message."""
    for source, says in ((send(uploads, b"no archive"), "mine.zip"), (PathSource(tmp_path), tmp_path.name)):
        with pytest.raises(AdapterError) as caught:
            take(source, library, uploads)
        assert says in str(caught.value) and str(tmp_path) not in str(caught.value)
    assert "sql" not in library.store.names()


def test_the_same_name_is_the_version_itself(library: Library, uploads: Uploads) -> None:
    """Nothing is copied; an unknown one is not found."""
    assert take(InstalledSource("pirate"), library, uploads, "pirate").version == library.store.get("pirate").latest
    with pytest.raises(NotFound):
        take(InstalledSource("no-such"), library, uploads)


def test_a_download_over_the_limit_is_refused_before_it_begins(
    library: Library, uploads: Uploads, folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the sizes the hub tells."""
    hub.repos["org/sql"] = Repo({name: (folder / name).read_bytes() for name in FILES})
    monkeypatch.setattr("edgelora.runtime.install.sources.MAX_DOWNLOAD_BYTES", 1000)
    with pytest.raises(AdapterError) as caught:
        take(HubSource("org/sql"), library, uploads)
    assert caught.value.code == "adapter_download_too_large" and not hub.requests


def test_what_comes_does_not_hold_the_turn(library: Library, uploads: Uploads, folder: Path, hub: Hub) -> None:
    """While bytes come from a hub, another adapter is installed; then it is its turn."""
    hub.repos["org/sql"] = Repo({name: (folder / name).read_bytes() for name in FILES})
    hub.pause_at, turn, base = 100, threading.Lock(), library.bases.get("tiny")
    made: list[InstallResult] = []

    def pull() -> None:
        made.append(install(HubSource("org/sql"), name="a", library=library, base=base, uploads=uploads, turn=turn))

    thread = threading.Thread(target=pull)
    thread.start()
    assert hub.paused.wait(20) and not turn.locked()
    install(PathSource(folder), name="b", library=library, base=base, uploads=uploads, turn=turn)
    hub.resume.set()
    thread.join(20)
    assert [one.manifest.name for one in made] == ["a"] and not turn.locked()
