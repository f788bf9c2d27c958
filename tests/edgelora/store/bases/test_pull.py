"""Pulling a base: every byte once, from the right place, and nothing half-done taken for a base."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import get_hf_file_metadata, hf_hub_url

from edgelora.core.errors import BaseError, Busy, NotFound, Offline, StorageError, UsageError
from edgelora.core.files import locked
from edgelora.store.bases.pull import pull
from edgelora.store.bases.record import BaseRecord
from edgelora.store.bases.registry import Bases
from edgelora.store.hub.redirects import check_redirect
from edgelora_models import catalogue
from tests.support.adapters import TINY, write_safetensors
from tests.support.bases import MIN_VOCAB, tiny_config, tiny_weights, write_tiny_gguf
from tests.support.hub import Hub, Repo, running_hub
from tests.support.records import directories

SHAPE = type(TINY)(layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=32, vocab=MIN_VOCAB, tied=True)
REPO = "somebody/Tiny-Llama-GGUF"
FILE = "tiny-Q8_0.gguf"


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / FILE, SHAPE, seed=1).read_bytes()


@pytest.fixture
def hub(gguf_bytes: bytes) -> Iterator[Hub]:
    with running_hub() as running:
        files = {FILE: gguf_bytes, "README.md": b"# Tiny\n"}
        running.repos[REPO] = Repo(files, large=frozenset({FILE}))
        yield running


def pull_tiny(hub: Hub, root: Path, name: str = REPO, **options: Any) -> BaseRecord:
    options = {"format": "gguf", "endpoint": hub.url, "pause": lambda seconds: None} | options
    return pull(name, directories=directories(root), **options)


def leftovers(root: Path) -> list[str]:
    """Files below the downloads that are not model files."""
    found = (path for path in (root / "cache").rglob("*") if path.is_file())
    return sorted(path.name for path in found if path.suffix not in {".gguf", ".lock"})


def part_of(root: Path) -> Path:
    return next((root / "cache").rglob("*.part"))


def test_a_pulled_base_is_installed(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """The bytes of the hub, below the cache, registered with where they came from."""
    seen: list[tuple[str, int, int]] = []
    record = pull_tiny(hub, tmp_path, progress=lambda *step: seen.append(step))
    assert record.name == "tiny-llama-gguf" and record.format == "gguf"
    assert record.origin == f"hub:{REPO}@{'c0' * 20}"
    assert record.path.read_bytes() == gguf_bytes and tmp_path / "cache" in record.path.parents
    assert Bases(directories(tmp_path)).get(record.name) == record.check()
    assert record.identity.fingerprint.shape == SHAPE
    assert seen[0][1] == 0 and seen[-1] == ("Downloading tiny-llama-gguf", len(gguf_bytes), len(gguf_bytes))
    assert [step[1] for step in seen] == sorted(step[1] for step in seen)
    assert leftovers(tmp_path) == []


def test_the_test_hub_answers_as_huggingface_hub_expects(hub: Hub, gguf_bytes: bytes) -> None:
    """Its own client reads size, checksum and commit from this server's HEAD."""
    metadata = get_hf_file_metadata(hf_hub_url(REPO, FILE, endpoint=hub.url), endpoint=hub.url)
    assert (metadata.commit_hash, metadata.size) == ("c0" * 20, len(gguf_bytes))
    assert f'"{metadata.etag}"' == hub.repos[REPO].etag(FILE)


def test_requests_say_nothing_about_the_machine(hub: Hub, tmp_path: Path) -> None:
    """The user agent names edgelora, huggingface_hub and Python, not what else is installed or who runs it."""
    pull_tiny(hub, tmp_path)
    agent = hub.requests[0].headers["user-agent"]
    assert [part.partition("/")[0] for part in agent.split("; ")] == ["edgelora", "hf_hub", "python"]


def test_pulling_again_transfers_nothing(hub: Hub, tmp_path: Path) -> None:
    """What is there is not fetched again, also where only the README has changed since."""
    first = pull_tiny(hub, tmp_path)
    hub.repos[REPO].files["README.md"] = b"new"
    hub.repos[REPO].commit = "d1" * 20
    sent = hub.sent
    again = pull_tiny(hub, tmp_path)
    assert hub.sent == sent and again.path == first.path
    assert again.origin.endswith("@" + "d1" * 20)


def test_a_new_model_replaces_the_old_download(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """A new commit with other content is a new download; the old one is deleted when the new one is in."""
    old = pull_tiny(hub, tmp_path)
    hub.repos[REPO].files[FILE] = gguf_bytes + b"\0" * 32
    hub.repos[REPO].commit = "d1" * 20
    new = pull_tiny(hub, tmp_path)
    assert new.path != old.path and new.path.is_file() and not old.path.exists()


def test_a_cut_connection_goes_on_where_it_was(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """After a cut only the missing bytes are asked for, under the same ETag, within one pull."""
    hub.cuts = [10_000, 5_000]
    waits: list[float] = []
    record = pull_tiny(hub, tmp_path, pause=waits.append)
    assert record.path.read_bytes() == gguf_bytes
    assert [seen.range for seen in hub.requests] == [None, "bytes=10000-", "bytes=15000-"]
    assert hub.requests[1].headers["if-range"] == hub.repos[REPO].etag(FILE)
    assert [seen.status for seen in hub.requests] == [200, 206, 206]
    assert hub.sent == len(gguf_bytes)
    assert waits == [1.0, 1.0]


def test_giving_up_keeps_what_is_there(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """A connection that brings nothing any more ends in Offline, with the part kept for the next pull."""
    hub.cuts = [10_000, 0, 0, 0, 0, 0, 0, 0]
    waits: list[float] = []
    with pytest.raises(Offline) as caught:
        pull_tiny(hub, tmp_path, pause=waits.append)
    assert caught.value.code == "download_interrupted" and "10.0 kB of" in caught.value.what
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert Bases(directories(tmp_path)).list() == ()
    hub.cuts, hub.requests = [], []
    assert pull_tiny(hub, tmp_path).path.read_bytes() == gguf_bytes
    assert [(seen.range, seen.sent) for seen in hub.requests] == [("bytes=10000-", len(gguf_bytes) - 10_000)]
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="kills with SIGKILL")
def test_a_killed_process_loses_nothing(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """kill -9 in the middle; the next process asks for exactly the missing bytes. The endpoint is HF_ENDPOINT."""
    hub.pause_at = 20_000
    script = (
        "import sys; from pathlib import Path; from edgelora.store.bases.pull import pull\n"
        "from tests.support.records import directories\n"
        f"print(pull({REPO!r}, format='gguf', directories=directories(Path(sys.argv[1]))).path)"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.url, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, env=environment) as process:
        assert hub.paused.wait(60)
        while part_of(tmp_path).stat().st_size < 20_000:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert Bases(directories(tmp_path)).list() == ()
    hub.resume.set()
    hub.requests.clear()
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert Path(run.stdout.strip()).read_bytes() == gguf_bytes
    assert [(seen.range, seen.status, seen.sent) for seen in hub.requests] == [
        ("bytes=20000-", 206, len(gguf_bytes) - 20_000)
    ]
    assert leftovers(tmp_path) == []


def interrupted(hub: Hub, root: Path, nbytes: int = 10_000) -> None:
    """Leave a part of `nbytes` behind."""
    hub.cuts = [nbytes, 0, 0, 0, 0, 0]
    with pytest.raises(Offline):
        pull_tiny(hub, root)
    assert part_of(root).stat().st_size == nbytes
    hub.cuts, hub.requests = [], []


def test_a_changed_etag_starts_again(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """Where the server has another file under that address by now, the part is not continued."""
    interrupted(hub, tmp_path)
    hub.repos[REPO].etags[FILE] = '"other"'
    assert pull_tiny(hub, tmp_path).path.read_bytes() == gguf_bytes
    assert [(seen.range, seen.status) for seen in hub.requests] == [("bytes=10000-", 200)]


def test_another_etag_with_206_starts_again(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """A server that ignores If-Range and continues another file is caught by its ETag."""
    interrupted(hub, tmp_path)
    hub.repos[REPO].etags[FILE], hub.conditions = '"other"', False
    assert pull_tiny(hub, tmp_path).path.read_bytes() == gguf_bytes
    assert [(seen.range, seen.status) for seen in hub.requests] == [("bytes=10000-", 206), (None, 200)]


def test_weak_etags_are_not_sent_back(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """If-Range needs a strong ETag; with a weak one the checksum alone decides."""
    hub.repos[REPO].etags[FILE] = 'W/"weak"'
    interrupted(hub, tmp_path)
    assert pull_tiny(hub, tmp_path).path.read_bytes() == gguf_bytes
    assert "if-range" not in hub.requests[0].headers and hub.requests[0].status == 206


def test_a_server_without_ranges_starts_again(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """200 in answer to a range is the whole file from its beginning."""
    interrupted(hub, tmp_path)
    hub.ranges = False
    assert pull_tiny(hub, tmp_path).path.read_bytes() == gguf_bytes
    assert [(seen.range, seen.status, seen.sent) for seen in hub.requests] == [("bytes=10000-", 200, len(gguf_bytes))]


def test_416_starts_again(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """A server that has nothing at that position is asked for all of it."""
    interrupted(hub, tmp_path)
    hub.statuses = [(416, {})]
    assert pull_tiny(hub, tmp_path).path.read_bytes() == gguf_bytes
    assert [(seen.range, seen.status) for seen in hub.requests] == [("bytes=10000-", 416), (None, 200)]


def test_a_login_page_does_not_cost_the_part(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """200 with something else in it (a captive portal) is no reason to throw bytes away."""
    interrupted(hub, tmp_path)
    hub.statuses = [(200, {})]
    assert pull_tiny(hub, tmp_path).path.read_bytes() == gguf_bytes
    assert [(seen.range, seen.status) for seen in hub.requests] == [("bytes=10000-", 200), ("bytes=10000-", 206)]


def test_a_part_of_another_file_is_not_continued(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """A side file that is missing, damaged or speaks of other content: the part is thrown away."""
    for damage in (b"", b"{", b'{"checksum":{"kind":"sha256","value":"x"},"nbytes":99999999,"etag":null}'):
        root = tmp_path / str(len(damage))
        interrupted(hub, root)
        side = part_of(root).with_name(f"{part_of(root).name}.json")
        side.write_bytes(damage)
        assert pull_tiny(hub, root).path.read_bytes() == gguf_bytes
        assert hub.requests[0].range is None
        hub.requests.clear()


def test_a_damaged_part_is_found(hub: Hub, tmp_path: Path) -> None:
    """Bytes that changed on the disk while they waited: the checksum fails, the file goes, the next pull is whole."""
    interrupted(hub, tmp_path)
    data = bytearray(part_of(tmp_path).read_bytes())
    data[5000] ^= 1
    part_of(tmp_path).write_bytes(data)
    with pytest.raises(BaseError) as caught:
        pull_tiny(hub, tmp_path)
    assert caught.value.code == "download_corrupt" and "Pull again" in caught.value.remedy
    assert leftovers(tmp_path) == []
    assert pull_tiny(hub, tmp_path).path.is_file()


def test_a_wrong_hash_is_discarded(hub: Hub, tmp_path: Path) -> None:
    """Bytes that are not what the hub says are deleted, and no base is registered."""
    hub.repos[REPO].sha256[FILE] = "0" * 64
    with pytest.raises(BaseError) as caught:
        pull_tiny(hub, tmp_path)
    assert caught.value.code == "download_corrupt"
    assert leftovers(tmp_path) == [] and not list((tmp_path / "cache").rglob("*.gguf"))
    assert Bases(directories(tmp_path)).list() == ()


def test_a_busy_server_is_waited_for(hub: Hub, tmp_path: Path) -> None:
    """503 and 429 are tried again, after as long as the server says."""
    hub.statuses = [(503, {}), (429, {"Retry-After": "7"})]
    waits: list[float] = []
    assert pull_tiny(hub, tmp_path, pause=waits.append).path.is_file()
    assert waits == [1.0, 7.0]


def test_unknown_repositories_and_revisions(hub: Hub, tmp_path: Path) -> None:
    """401 and 404 are NotFound with what to do."""
    for name in ("nobody/nothing", f"{REPO}@v9"):
        with pytest.raises(NotFound) as caught:
            pull_tiny(hub, tmp_path, name)
        assert "hf auth login" in caught.value.remedy
    with pytest.raises(NotFound):
        pull_tiny(hub, tmp_path, "no-such-base")
    assert not (tmp_path / "cache").exists()


def test_a_revision_can_be_named(hub: Hub, tmp_path: Path) -> None:
    """`repository@commit` pulls that commit."""
    assert pull_tiny(hub, tmp_path, f"{REPO}@{'c0' * 20}").path.is_file()


def test_gated_repositories(hub: Hub, tmp_path: Path) -> None:
    """Without a token: what to accept and how to log in. With one: the base."""
    hub.repos[REPO].gated = True
    with pytest.raises(BaseError) as caught:
        pull_tiny(hub, tmp_path, token="bad")
    assert caught.value.code == "gated" and f"{hub.url}/{REPO}" in caught.value.remedy
    assert pull_tiny(hub, tmp_path, token="good").path.is_file()


def test_a_file_that_is_gone(hub: Hub, tmp_path: Path) -> None:
    """404 for the bytes themselves is an error at once, not an attempt after the other."""
    hub.statuses = [(404, {"X-Error-Code": "EntryNotFound"})]
    with pytest.raises(NotFound):
        pull_tiny(hub, tmp_path)
    assert len(hub.requests) == 1


def test_offline_says_how_to_do_it_by_hand(hub: Hub, tmp_path: Path) -> None:
    """--offline asks nobody; the message names the file, its repository and the command for a copied file."""
    with pytest.raises(Offline) as caught:
        pull_tiny(hub, tmp_path, "llama-3.1-8b", offline=True)
    text = str(caught.value)
    assert "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf" in text and "edgelora base add PATH" in text
    assert hub.requests == [] and not (tmp_path / "cache").exists()
    with pytest.raises(NotFound):
        pull_tiny(hub, tmp_path, "no-such-base", offline=True)


def test_hf_hub_offline_is_honoured(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub's own switch forbids the network too, whatever the caller passed."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Offline) as caught:
        pull_tiny(hub, tmp_path)
    assert "HF_HUB_OFFLINE" in str(caught.value) and hub.requests == []


def test_no_network(tmp_path: Path) -> None:
    """A hub that cannot be reached is Offline, with the way around."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(Offline) as caught:
            pull(REPO, format="gguf", directories=directories(tmp_path), endpoint=endpoint)
    assert caught.value.code == "hub_unavailable" and endpoint in caught.value.what
    assert "edgelora base add PATH" in caught.value.remedy


def test_the_token_stays_at_home(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """Large files come from a storage elsewhere: it gets the range, never the token."""
    with running_hub() as storage:
        storage.repos = hub.repos
        hub.storage = f"{storage.url}/storage"
        interrupted_at = 10_000
        storage.cuts = [interrupted_at]
        assert pull_tiny(hub, tmp_path, token="good").path.read_bytes() == gguf_bytes
    assert [seen.status for seen in hub.requests] == [302, 302]
    assert all(seen.headers["authorization"] == "Bearer good" for seen in hub.requests)
    assert [seen.range for seen in storage.requests] == [None, f"bytes={interrupted_at}-"]
    assert not any("authorization" in seen.headers for seen in storage.requests)


def test_a_storage_that_refuses_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    """A signed address that ran out (403) is fetched anew from the hub."""
    with running_hub() as storage:
        storage.repos = hub.repos
        hub.storage = f"{storage.url}/storage"
        storage.statuses = [(403, {})]
        assert pull_tiny(hub, tmp_path).path.is_file()
    assert len(hub.requests) == len(storage.requests) == 2


def test_redirects_in_circles_end(hub: Hub, tmp_path: Path) -> None:
    """A hub that sends the download round and round is an error."""
    hub.storage = hub.url
    with pytest.raises(BaseError) as caught:
        pull_tiny(hub, tmp_path)
    assert caught.value.code == "bad_redirect"


def test_a_bad_redirect_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    """Plain http to another host is refused before a request is made."""
    hub.storage = "http://192.0.2.1/storage"
    with pytest.raises(BaseError) as caught:
        pull_tiny(hub, tmp_path)
    assert caught.value.code == "bad_redirect" and "not https" in caught.value.what


@pytest.mark.parametrize(
    ("endpoint", "target", "allowed"),
    [
        ("https://1.1.1.1", "https://8.8.8.8/file", True),
        ("https://1.1.1.1", "https://1.1.1.1/other", True),
        ("https://1.1.1.1", "http://8.8.8.8/file", False),
        ("https://1.1.1.1", "http://1.1.1.1/file", False),
        ("https://1.1.1.1", "https://127.0.0.1/file", False),
        ("https://1.1.1.1", "https://[::1]/file", False),
        ("https://1.1.1.1", "https://[::ffff:10.0.0.1]/file", False),
        ("https://1.1.1.1", "https://10.0.0.1/file", False),
        ("https://1.1.1.1", "https://169.254.169.254/latest", False),
        ("https://1.1.1.1", "https://0/file", False),
        ("https://1.1.1.1", "https://2130706433/file", False),
        ("https://1.1.1.1", "https://localhost/file", False),
        ("https://1.1.1.1", "http://127.0.0.1/file", False),
        ("https://1.1.1.1", "file:///etc/passwd", False),
        ("https://1.1.1.1", "ftp://8.8.8.8/file", False),
        ("http://127.0.0.1:1", "http://127.0.0.1:2/file", True),
        ("http://127.0.0.1:1", "http://10.0.0.1/file", False),
        ("http://10.0.0.1", "http://10.0.0.1/file", True),
        ("http://10.0.0.1", "https://10.0.0.2/file", True),
        ("http://10.0.0.1", "http://10.0.0.2/file", False),
        ("http://10.0.0.1", "http://127.0.0.1/file", False),
    ],
)
def test_redirects(endpoint: str, target: str, allowed: bool) -> None:
    """To the endpoint itself or by https; never from a public hub into the private network, never down to http."""
    if allowed:
        check_redirect(endpoint, target)
        return
    with pytest.raises(BaseError):
        check_redirect(endpoint, target)


def test_too_little_space_is_said_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that does not fit is refused before a byte is fetched."""
    monkeypatch.setattr("edgelora_models.storage.free_bytes", lambda folder: 1000)
    with pytest.raises(StorageError) as caught:
        pull_tiny(hub, tmp_path)
    assert caught.value.code == "no_space" and hub.requests == []


def test_one_download_at_a_time(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes never write one part: the second is told Busy."""
    record = pull_tiny(hub, tmp_path)
    monkeypatch.setattr("edgelora.store.bases.pull.BUSY_TIMEOUT", 0.05)
    lock = record.path.parent.with_name(f"{record.path.parent.name}.lock")
    with locked(lock, timeout=1, busy=""), pytest.raises(Busy):
        pull_tiny(hub, tmp_path)


def test_the_file_to_take_must_be_clear(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """Of several GGUF files the one of Q4_K_M is taken, split ones never; without it the user has to say."""
    repo = hub.repos[REPO]
    repo.files |= {"tiny-Q6_K.gguf": b"x", "big-Q4_K_M-00001-of-00002.gguf": b"x"}
    with pytest.raises(UsageError) as caught:
        pull_tiny(hub, tmp_path)
    assert caught.value.code == "unclear_file"
    repo.files["tiny-Q4_K_M.gguf"] = gguf_bytes
    assert pull_tiny(hub, tmp_path).path.name == "tiny-Q4_K_M.gguf"


def mlx_files(folder: Path) -> dict[str, bytes]:
    weights = write_safetensors(folder / "model.safetensors", tiny_weights(SHAPE, seed=1)).read_bytes()
    config = json.dumps(tiny_config(SHAPE)).encode()
    return {"config.json": config, "model.safetensors": weights, "README.md": b"#", "original/params.json": b"{}"}


def test_an_mlx_folder(hub: Hub, tmp_path: Path) -> None:
    """An MLX base is its files in one folder; small ones are held to git's hash, progress runs over all of them."""
    files = mlx_files(tmp_path)
    hub.repos[REPO] = Repo(files, large=frozenset({"model.safetensors"}))
    seen: list[int] = []
    record = pull_tiny(hub, tmp_path, format="mlx", progress=lambda label, done, total: seen.append(done))
    assert record.format == "mlx" and record.path.is_dir()
    assert {path.name for path in record.path.iterdir()} == {"config.json", "model.safetensors"}
    assert seen[-1] == len(files["config.json"]) + len(files["model.safetensors"]) and seen == sorted(seen)


def test_a_small_file_is_checked_too(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config that is not the commit's is thrown away like a wrong weight."""
    hub.repos[REPO] = Repo(mlx_files(tmp_path), large=frozenset({"model.safetensors"}))
    monkeypatch.setattr("tests.support.hub.git_id", lambda data: "0" * 40)
    with pytest.raises(BaseError) as caught:
        pull_tiny(hub, tmp_path, format="mlx")
    assert caught.value.code == "download_corrupt"


def test_the_catalogue_names_what_to_pull(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """A catalogue name or alias pulls its repository, and the record carries its aliases and sampling defaults."""
    build = catalogue.find("llama-3.1-8b").build("gguf")
    hub.repos[build.repository] = Repo({build.files[0]: gguf_bytes}, large=frozenset(build.files))
    record = pull_tiny(hub, tmp_path, "meta-llama/Llama-3.1-8B-Instruct")
    assert (record.name, record.temperature, record.top_p) == ("llama-3.1-8b", 0.6, 0.9)
    assert Bases(directories(tmp_path)).get("llama-3.1-8b-instant") == record
    del hub.repos[build.repository].files[build.files[0]]
    with pytest.raises(BaseError) as caught:
        pull_tiny(hub, tmp_path, "llama-3.1-8b")
    assert caught.value.code == "file_missing"


def test_both_formats_beside_each_other(hub: Hub, tmp_path: Path, gguf_bytes: bytes) -> None:
    """The second format of one base gets a name of its own; neither replaces the other."""
    entry = catalogue.find("llama-3.1-8b")
    gguf, mlx = entry.build("gguf"), entry.build("mlx")
    hub.repos[gguf.repository] = Repo({gguf.files[0]: gguf_bytes}, large=frozenset(gguf.files))
    files = dict.fromkeys(mlx.files, b"{}") | mlx_files(tmp_path)
    del files["README.md"], files["original/params.json"]
    files["tokenizer.json"] = b'{"model": {"vocab": {"a": 0}}}'
    hub.repos[mlx.repository] = Repo(files, large=frozenset({"model.safetensors"}))
    first = pull_tiny(hub, tmp_path, entry.name)
    second = pull_tiny(hub, tmp_path, entry.name, format="mlx")
    assert (first.name, second.name) == ("llama-3.1-8b", "llama-3.1-8b-mlx")
    assert pull_tiny(hub, tmp_path, entry.name, format="mlx").name == "llama-3.1-8b-mlx"
    assert first.check() and second.check()


def test_a_file_that_is_no_base_is_not_registered(hub: Hub, tmp_path: Path) -> None:
    """A repository whose GGUF is no Llama ends in BaseError, without a record."""
    hub.repos[REPO] = Repo({FILE: b"GGUF but not really"}, large=frozenset({FILE}))
    with pytest.raises(BaseError):
        pull_tiny(hub, tmp_path)
    assert Bases(directories(tmp_path)).list() == ()
