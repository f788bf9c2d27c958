"""Pulling an adapter: what the hub has is what is installed, and it is there again without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgelora.core.errors import (
    AdapterCorrupt,
    AdapterError,
    AdapterUnsupported,
    BaseError,
    Busy,
    NotFound,
    Offline,
    UsageError,
)
from edgelora.core.files import locked
from edgelora.runtime.install.pull import HubAccess, PulledAdapter, PullOptions, pull
from edgelora.store.adapters.normalize import FROM_MLX
from edgelora.store.bases.record import BaseRecord
from edgelora.store.hub.adapter_cache import AdapterCache, CacheRequest
from edgelora.store.library import Library
from edgelora_converters.peft.folder import FILES
from tests.support.adapters import write_peft
from tests.support.bases import write_tiny_gguf
from tests.support.cli import SHAPE
from tests.support.hub import Hub, Repo, running_hub
from tests.support.trained import last_layer, trained

CONFIG, WEIGHTS = FILES
REPO = "some-org/Legal_FAQ-lora"
NAME = "legal_faq-lora"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """An adapter's repository as the hub has it."""
    folder = write_peft(tmp_path / "trained", SHAPE, seed=7, targets=["q_proj", "v_proj"])
    return {name: (folder / name).read_bytes() for name in FILES} | {"README.md": b"# Legal\n"}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    with running_hub() as running:
        running.repos[REPO] = Repo(files, large=frozenset({WEIGHTS}))
        yield running


def pulled(hub: Hub, library: Library, name: str = REPO, **options: Any) -> PulledAdapter:
    access = HubAccess(
        options.pop("token", None), hub.url, progress=options.pop("progress", None), pause=lambda seconds: None
    )
    done = pull(name, library=library, options=PullOptions(**options), access=access)
    assert isinstance(done, PulledAdapter)
    return done


def offline(library: Library) -> Library:
    return replace(library, settings=replace(library.settings, offline=True))


def kept(library: Library, done: PulledAdapter) -> dict[str, bytes]:
    """The files the store has of it."""
    with library.store.source(done.manifest.name, done.version) as folder:
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_adapter_is_pulled_and_installed(hub: Hub, library: Library, files: dict[str, bytes]) -> None:
    """Under the repository's name, with where it came from; its two files and nothing else are fetched."""
    seen: list[tuple[str, int, int]] = []
    done = pulled(hub, library, progress=lambda *step: seen.append(step))
    assert (done.manifest.name, done.version.number, done.base.name, done.cached) == (NAME, 1, "tiny", None)
    assert done.version.origin == f"hub:{REPO}@{'c0' * 20}"
    assert kept(library, done) == {name: files[name] for name in FILES}
    assert hub.sent == sum(len(files[name]) for name in FILES)
    assert (f"Downloading {REPO}", hub.sent, hub.sent) in seen
    assert library.store.ref(NAME, done.base).path.exists()


def test_what_mlx_lm_trained(hub: Hub, library: Library, tmp_path: Path) -> None:
    """Its two files are fetched, its other checkpoints not; it is kept as PEFT, as `add` keeps it."""
    folder = trained(tmp_path / "tuned", last_layer(SHAPE))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repos["o/tuned"] = Repo(files, large=frozenset({"adapters.safetensors"}))
    done = pulled(hub, library, "o/tuned")
    assert (done.manifest.name, done.version.alpha, done.version.treatment) == ("tuned", "80", FROM_MLX)
    assert hub.sent == sum(len(files[name]) for name in ("adapter_config.json", "adapters.safetensors"))
    assert set(kept(library, done)) == set(FILES)


def test_the_second_pull_needs_no_network(hub: Hub, library: Library) -> None:
    """Forbidden, or away: what came before is installed again, also after its removal, and said to be that."""
    first = pulled(hub, library)
    again = pulled(hub, offline(library))
    assert again.version == first.version and again.cached is not None
    library.store.remove(NAME)
    hub.repos.clear()
    with running_hub() as other:
        gone = other.url
    away = pull(REPO, library=library, access=HubAccess(endpoint=gone))
    assert isinstance(away, PulledAdapter)
    assert away.version.digest == first.version.digest and away.cached is not None
    assert hub.sent == sum(file.nbytes for file in first.version.files)


def test_what_was_never_pulled_needs_one(hub: Hub, library: Library) -> None:
    """Offline is said as such, also for another revision or part of a repository that is there."""
    pulled(hub, library)
    for name, options in (("some-org/other", {}), (f"{REPO}@v2", {}), (REPO, {"subfolder": "x"})):
        with pytest.raises(Offline, match="not pulled before") as caught:
            pulled(hub, offline(library), name, **options)
        assert caught.value.code == "offline"


def test_pulling_again_fetches_nothing(hub: Hub, library: Library) -> None:
    """The cached files are checked and used; the version is the same."""
    first, sent = pulled(hub, library), hub.sent
    assert pulled(hub, library).version == first.version and hub.sent == sent


def test_a_damaged_cache_is_fetched_again_and_never_installed(hub: Hub, library: Library) -> None:
    """Bytes that changed on disk do not pass, with a network or without."""
    pulled(hub, library)
    library.store.remove(NAME)
    (weights,) = (library.settings.directories.cache / "adapters").rglob(WEIGHTS)
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"\x7f")
    with pytest.raises(Offline):
        pulled(hub, offline(library))
    sent = hub.sent
    pulled(hub, library)
    assert hub.sent == sent + len(good) and weights.read_bytes() == good


def test_revisions_are_kept_apart(hub: Hub, library: Library, files: dict[str, bytes], tmp_path: Path) -> None:
    """A new commit is the next version; a tag, and a commit by its hash, are found without a network."""
    hub.repos[REPO].tags = frozenset({"v1", "refs/pr/1"})
    pulled(hub, library, f"{REPO}@v1")
    pulled(hub, library, f"{REPO}@refs/pr/1")
    newer = (write_peft(tmp_path / "newer", SHAPE, seed=8, targets=["q_proj", "v_proj"]) / WEIGHTS).read_bytes()
    hub.repos[REPO] = Repo(files | {WEIGHTS: newer}, commit="d1" * 20, large=frozenset({WEIGHTS}))
    assert pulled(hub, library).version.number == 2
    alone = offline(library)
    assert pulled(hub, alone, f"{REPO}@v1").version.number == 1
    assert pulled(hub, alone, f"{REPO}@{'d1' * 20}").version.number == 2
    assert pulled(hub, alone, f"{REPO}@{'c0' * 20}").version.number == 1


def test_a_commit_nobody_asks_for_any_more_is_deleted(hub: Hub, library: Library, files: dict[str, bytes]) -> None:
    """The cache holds what its records speak of."""
    pulled(hub, library)
    config = json.dumps(json.loads(files[CONFIG]) | {"lora_alpha": 3}).encode()
    hub.repos[REPO] = Repo(files | {CONFIG: config}, commit="d1" * 20, large=frozenset({WEIGHTS}))
    pulled(hub, library)
    assert len(list((library.settings.directories.cache / "adapters").rglob(WEIGHTS))) == 1


def test_a_cut_download_goes_on(hub: Hub, library: Library, files: dict[str, bytes]) -> None:
    """Within one pull and in the next one: no byte twice."""
    hub.cuts = [10, 3000]
    pulled(hub, library)
    assert hub.sent == sum(len(files[name]) for name in FILES)
    other = "some-org/second"
    hub.repos[other] = Repo(files, large=frozenset({WEIGHTS}))
    hub.cuts = [len(files[CONFIG]), 1000, 0, 0, 0, 0, 0]
    before = hub.sent
    with pytest.raises(Offline, match="interrupted"):
        pulled(hub, library, other)
    assert "second" not in library.store.names()
    pulled(hub, library, other)
    assert hub.sent - before == sum(len(files[name]) for name in FILES)


def test_a_private_repository_takes_a_token(hub: Hub, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one it is not there; one may be given, or stand in HF_TOKEN. It is not written anywhere."""
    hub.repos[REPO].private = True
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(NotFound, match="HF_TOKEN"):
        pulled(hub, library)
    pulled(hub, library, token="good")
    monkeypatch.setenv("HF_TOKEN", "good")
    assert pulled(hub, library).cached is None
    texts = (path.read_bytes() for path in library.settings.directories.data.parent.rglob("*.json"))
    assert all(b"Bearer" not in text and b'"good"' not in text for text in texts)


def test_gated_repositories_are_no_fault_of_a_base(hub: Hub, library: Library) -> None:
    """The licence is asked for as an adapter's."""
    hub.repos[REPO].gated = True
    with pytest.raises(AdapterError) as caught:
        pulled(hub, library)
    assert caught.value.code == "gated"


def test_wrong_bytes_are_never_installed(hub: Hub, library: Library) -> None:
    """What has another checksum than the hub says is thrown away."""
    hub.repos[REPO].sha256 = {WEIGHTS: "0" * 64}
    with pytest.raises(AdapterError) as caught:
        pulled(hub, library)
    assert caught.value.code == "download_corrupt"
    assert NAME not in library.store.names()
    assert not list((library.settings.directories.cache / "adapters").rglob(WEIGHTS))


def test_folders_within_a_repository(hub: Hub, library: Library, files: dict[str, bytes]) -> None:
    """The only one is found; of several one must be named, and names the adapter."""
    hub.repos["o/one"] = Repo({f"final/{name}": files[name] for name in FILES}, large=frozenset({f"final/{WEIGHTS}"}))
    assert pulled(hub, library, "o/one").manifest.name == "one"
    hub.repos["o/two"] = Repo({f"{part}/{name}": files[name] for part in ("law", "tax") for name in FILES})
    with pytest.raises(AdapterUnsupported, match=r"'law', 'tax'.*--subfolder"):
        pulled(hub, library, "o/two")
    assert pulled(hub, library, "o/two", subfolder="tax/").manifest.name == "tax"
    assert pulled(hub, offline(library), "o/two", subfolder="tax").manifest.name == "tax"
    with pytest.raises(UsageError, match="law, tax"):
        pulled(hub, library, "o/two", subfolder="art")


def test_what_is_no_adapter_is_said_before_a_byte_is_fetched(
    hub: Hub, library: Library, files: dict[str, bytes]
) -> None:
    """A pickle, half of one, a model in another form, and a base where none is chosen."""
    hub.repos["o/pickle"] = Repo({CONFIG: files[CONFIG], "adapter_model.bin": b"x"})
    hub.repos["o/half"] = Repo({CONFIG: files[CONFIG]})
    hub.repos["o/model"] = Repo({"config.json": b"{}", "model.safetensors": b"x"})
    for name, kind, code in (
        ("o/pickle", AdapterUnsupported, "adapter_is_pickle"),
        ("o/half", AdapterCorrupt, "adapter_missing"),
        ("o/model", UsageError, "nothing_to_pull"),
    ):
        with pytest.raises(kind) as caught:
            pulled(hub, library, name)
        assert caught.value.code == code
    library.bases.remove("tiny")
    with pytest.raises(BaseError, match="not installed any more"):
        pulled(hub, library)
    assert hub.sent == 0


def test_a_name_of_another_origin_is_not_taken_over(hub: Hub, library: Library, files: dict[str, bytes]) -> None:
    """By default; who gives the name makes the next version of it."""
    hub.repos["a/medical-faq"] = Repo(files)
    with pytest.raises(UsageError) as caught:
        pulled(hub, library, "a/medical-faq")
    assert caught.value.code == "name_taken"
    assert pulled(hub, library, "a/medical-faq", called="medical-faq").version.number == 2
    assert pulled(hub, library, "a/medical-faq").version.number == 2
    hub.repos["b/medical-faq"] = Repo(files)
    with pytest.raises(UsageError, match="hub:a/medical-faq"):
        pulled(hub, library, "b/medical-faq")


def test_a_repository_with_a_model_is_pulled_as_a_base(hub: Hub, library: Library, tmp_path: Path) -> None:
    """By its files; a name without an organization is one of the catalogue."""
    hub.repos["o/Tiny-GGUF"] = Repo({"t.gguf": write_tiny_gguf(tmp_path / "t.gguf", SHAPE, seed=3).read_bytes()})
    access = HubAccess(endpoint=hub.url)
    with pytest.raises(UsageError) as caught:
        pull("o/Tiny-GGUF", library=library, options=PullOptions(called="x"), access=access)
    assert caught.value.code == "not_an_adapter" and hub.sent == 0
    record = pull("o/Tiny-GGUF", library=library, access=access)
    assert isinstance(record, BaseRecord) and record.name == "tiny-gguf"
    with pytest.raises(NotFound):
        pull("lama-3.1-8b", library=library, access=access)


def test_unknown_repositories(hub: Hub, library: Library) -> None:
    """An unknown name, or revision, is not looked for in the cache."""
    pulled(hub, library)
    for name in ("o/nothing", f"{REPO}@v9"):
        with pytest.raises(NotFound, match="no repository named"):
            pulled(hub, library, name)


def test_another_process_at_it_is_busy(hub: Hub, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes do not write one file."""
    monkeypatch.setattr("edgelora.store.hub.adapter_cache.BUSY_TIMEOUT", 0.05)
    lock = library.settings.directories.cache / "adapters" / REPO.replace("/", "--") / "pull.lock"
    with locked(lock, timeout=1, busy=""), pytest.raises(Busy):
        pulled(hub, library)


def test_a_damaged_record_is_as_if_it_were_not_there(hub: Hub, library: Library) -> None:
    """Losing the cache costs a download."""
    pulled(hub, library)
    (record,) = (library.settings.directories.cache / "adapters").glob("*/*.json")
    record.write_text("{")
    with pytest.raises(Offline):
        pulled(hub, offline(library))
    assert pulled(hub, library).cached is None


@pytest.mark.parametrize("text", ["a", "a/b/c", "../b", "a b/c", "a/b@", "https://hub/a/b", ""])
def test_other_texts_are_no_repository(text: str) -> None:
    """organization/name, and no more."""
    wanted = CacheRequest.parse(text)
    assert wanted is None or text == "../b"


def test_names_cannot_leave_the_cache(tmp_path: Path) -> None:
    """A repository called `..` stays below the cache's folder."""
    wanted = CacheRequest.parse("../b")
    assert wanted is not None and AdapterCache(tmp_path / "cache").find(wanted) is None
    assert AdapterCache(tmp_path / "cache")._place("../b") == tmp_path / "cache" / "..--b"
